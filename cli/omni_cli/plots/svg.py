"""What the project's pictures share: an SVG document, the marks of an axis, pixels inside a drawing."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

# Marks of an axis stand this far apart, in its unit.
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MOST_MARKS = 12
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PALETTE = 3


def document(width: float, height: float, parts: Iterable[str], *, font: str = "sans-serif", size: int = 13) -> str:
    """A whole SVG file: `parts`, one over the other; text is `size` pixels of `font` unless it says otherwise."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{font}"'
        f' font-size="{size}">'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def marks(begin: float, end: float) -> list[float]:
    """Round numbers from `begin` to `end`, evenly spaced, about a dozen at most."""
    step = next((step for step in _STEPS if (end - begin) / step <= _MOST_MARKS), _STEPS[-1])
    return [number * step for number in range(ceil(begin / step), floor(end / step) + 1)]


def png(pixels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """A PNG file.

    Args:
        pixels: uint8 [height, width]; rows of the palette.
        palette: uint8 [colours, 3], RGB; at most 256.
    """
    height, width = pixels.shape
    # Every row begins with its filter; 0: none.
    rows = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_PALETTE, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def pixels_at(x: float, y: float, width: float, height: float, image: bytes) -> str:
    """The PNG file `image`, stretched over a rectangle of a drawing."""
    data = base64.b64encode(image).decode("ascii")
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none"'
        f' href="data:image/png;base64,{data}"/>'
    )
