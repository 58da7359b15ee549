"""Pictures of links for print: QR codes as SVG or PNG.

Error correction M (15 % of the picture may be lost) and a quiet zone of four modules, which the
standard asks for and scanners rely on.
"""

import io
from typing import Final

import segno

SVG: Final = "image/svg+xml"
PNG: Final = "image/png"
SCALE_MAX: Final = 32
SCALE_DEFAULT: Final = 8
TEXT_CHARS_MAX: Final = 512
_QUIET_MODULES: Final = 4


def svg(text: str) -> bytes:
    """A picture of the text that fits any size. ValueError for a text over TEXT_CHARS_MAX."""
    content = io.BytesIO()
    _code(text).save(
        content,
        kind="svg",
        border=_QUIET_MODULES,
        light="#fff",
        omitsize=True,
        svgclass=None,
        lineclass=None,
        xmldecl=False,
    )
    return content.getvalue()


def png(text: str, *, scale: int = SCALE_DEFAULT) -> bytes:
    """A picture with `scale` pixels to a module, 1 to SCALE_MAX. ValueError for other input."""
    if not 1 <= scale <= SCALE_MAX:
        raise ValueError("the scale is out of bounds")
    content = io.BytesIO()
    _code(text).save(content, kind="png", border=_QUIET_MODULES, scale=scale)
    return content.getvalue()


def _code(text: str) -> segno.QRCode:
    if len(text) > TEXT_CHARS_MAX:
        raise ValueError("the text is too long for a picture that can still be read")
    return segno.make(text, error="m", micro=False, boost_error=False)
