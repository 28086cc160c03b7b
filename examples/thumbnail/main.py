"""Make a photograph small: its bytes are the event, the small one's bytes are the result."""

import io
import os

from PIL import Image, ImageOps

WIDTH = int(os.environ["WIDTH"])
QUALITY = int(os.environ["QUALITY"])


def handler(event, context):
    """Return a JPEG of at most WIDTH by WIDTH pixels, upright as the camera meant it."""
    with Image.open(io.BytesIO(event)) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((WIDTH, WIDTH))
        print(f"{image.format} {image.width}x{image.height} to {small.width}x{small.height}")
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
