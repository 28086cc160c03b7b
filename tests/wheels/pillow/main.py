"""Draw a picture, resize it, and take it through the usual formats."""

import io

from PIL import Image, ImageDraw, ImageFilter, ImageFont


def picture():
    """Draw four fields of colour."""
    image = Image.new("RGB", (64, 64), "red")
    draw = ImageDraw.Draw(image)
    draw.rectangle((32, 0, 63, 31), fill="lime")
    draw.rectangle((0, 32, 31, 63), fill="blue")
    draw.rectangle((32, 32, 63, 63), fill="white")
    return image


def formats():
    """Encode and decode; what keeps every digit gives the same picture, the others nearly the same."""
    image, sizes = picture(), {}
    for name, exact in (("PNG", True), ("BMP", True), ("GIF", True), ("TIFF", True), ("JPEG", False), ("WEBP", False)):
        packed = io.BytesIO()
        image.save(packed, name)
        again = Image.open(io.BytesIO(packed.getvalue())).convert("RGB")
        far = max(abs(a - b) for at in ((8, 8), (56, 8), (8, 56), (56, 56)) for a, b in zip(image.getpixel(at), again.getpixel(at)))
        sizes[name] = again.size == (64, 64) and (again.tobytes() == image.tobytes() if exact else far <= 10)
    return sizes


def resize():
    """Make it smaller, turn it, blur it."""
    small = picture().resize((4, 4), Image.Resampling.NEAREST)
    turned = small.rotate(90)
    return {
        "corners": [small.getpixel(at) for at in ((0, 0), (3, 0), (0, 3), (3, 3))],
        "turned": turned.getpixel((0, 0)),
        "blurred": 0 < picture().filter(ImageFilter.GaussianBlur(4)).getpixel((32, 16))[0] < 255,
    }


def text():
    """Write with the font that comes along."""
    image = Image.new("L", (80, 20))
    ImageDraw.Draw(image).text((2, 2), "pyfaas", fill=255, font=ImageFont.load_default())
    return {"ink": image.getbbox() is not None}


def handler(event, context):
    return {"formats": formats, "resize": resize, "text": text}[event["case"]]()
