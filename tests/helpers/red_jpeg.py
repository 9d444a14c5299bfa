"""Image of one colour as a JPEG file."""

from io import BytesIO

from PIL import Image


def jpeg(red: int) -> bytes:
    """Make a JPEG file of 16 x 16 pixels with a red value in 0 to 255; it is decoded within 2 of that value."""
    content = BytesIO()
    Image.new("RGB", (16, 16), (red, 0, 0)).save(content, "JPEG", quality=100)
    return content.getvalue()
