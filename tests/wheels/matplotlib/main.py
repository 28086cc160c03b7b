"""Plots as PNG, SVG and PDF, by pyplot with the backend that needs no screen."""

import io
import zlib

import matplotlib.pyplot as plt


def figure():
    shown, axes = plt.subplots(figsize=(2, 1), dpi=50)
    axes.plot([0, 1, 4, 9], label="squares")
    axes.set_title("ä")
    axes.legend()
    return shown


def render(kind):
    out = io.BytesIO()
    shown = figure()
    shown.savefig(out, format=kind)
    plt.close(shown)
    return out.getvalue()


def png():
    """Return the picture itself."""
    return render("png")


def formats():
    picture = render("png")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    at = picture.index(b"IDAT")
    pixels = zlib.decompressobj().decompress(picture[at + 4 :])
    return [plt.get_backend().lower(), width, height, len(set(pixels)) > 10, b"</svg>" in render("svg"), render("pdf")[:5].decode()]


def handler(event, context):
    return globals()[event["case"]]()
