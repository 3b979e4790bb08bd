"""Picture files to RGB through OpenCV: upright, 8 bits, transparency over white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import MediaError
from omni_edge.media.container import open_container
from omni_edge.media.picture_header import CutOffError, DamagedError, PictureHeader, read_header
from omni_edge.media.quiet import quiet, silent_log
from omni_edge.media.source import Source

# A telephone's largest photographs have 200 million pixels; JPEG alone can be decoded at a part of its size.
_LARGEST_JPEG_PIXELS = 1 << 28
_LARGEST_PIXELS = 1 << 27
_WHOLE_JPEG_PIXELS = 1 << 26
# OpenCV takes no more.
_LONGEST_SIDE = 1 << 20
_LARGEST_FILE_BYTES = 1 << 30
_FIRST_BYTES = 64
_STRIP_PIXELS = 1 << 20
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypheim")


def decode_picture(source: Source) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB.

    Raises:
        MediaError: damaged or cut off, no picture, too large, or OpenCV is not installed.
    """
    try:
        import cv2  # noqa: PLC0415
    except ImportError:
        raise MediaError(f"Reading {source.name} needs OpenCV. Install it: pip install 'omni-edge[media]'") from None
    header = _header(source)
    if not header.opencv:
        return _oriented(_first_frame(source, header), header.orientation)
    flags = cv2.IMREAD_UNCHANGED
    if header.kind == "jpeg":
        half = header.width * header.height > _WHOLE_JPEG_PIXELS
        flags = (cv2.IMREAD_REDUCED_COLOR_2 if half else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    encoded = np.frombuffer(header.data, np.uint8)
    try:
        with quiet(), silent_log(cv2):
            pixels = cv2.imdecode(encoded, flags)
            if pixels is not None and pixels.dtype not in (np.uint8, np.uint16):
                pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)  # Radiance and other floating-point pictures
    except cv2.error:
        pixels = None
    if pixels is None or not pixels.size:
        raise MediaError(
            f"{source.name} cannot be decoded: it is damaged, cut off, or a {header.kind} file that OpenCV "
            "lacks. Copy it again, or convert it to PNG."
        )
    return _oriented(_to_rgb(pixels, header), header.orientation)


def _header(source: Source) -> PictureHeader:
    """The header of a picture that may be decoded."""
    source.file.seek(0)
    start = source.file.read(_FIRST_BYTES)
    if any(start.startswith(brand, 4) for brand in _HEIC):
        raise MediaError(f"{source.name} is a HEIC picture, which OpenCV cannot read. Convert it to JPEG.")
    if source.size > _LARGEST_FILE_BYTES:
        raise MediaError(f"{source.name} has {source.size >> 20} MiB, too much for a picture. Scale it down.")
    try:
        header = read_header(start + source.file.read())
    except CutOffError as error:
        raise MediaError(f"{source.name} is cut off: {error}. Copy it again.") from None
    except DamagedError as error:
        raise MediaError(f"{source.name} is damaged: {error}. Copy it again.") from None
    if header is None:
        raise MediaError(f"{source.name} is no picture that OpenCV can read. Convert it to JPEG or PNG.")
    most = _LARGEST_JPEG_PIXELS if header.kind == "jpeg" else _LARGEST_PIXELS
    size = f"{source.name} has {header.width} x {header.height} pixels"
    if min(header.width, header.height) < 1:
        raise MediaError(f"{size}, so it is damaged. Copy it again.")
    if header.width * header.height > most:
        raise MediaError(f"{size}, and {most / 1e6:.0f} million is the most. Scale it down.")
    if max(header.width, header.height) > _LONGEST_SIDE:
        raise MediaError(f"{size}, and {_LONGEST_SIDE} in a row is the most. Crop it.")
    return header


def _first_frame(source: Source, header: PictureHeader) -> NDArray[np.uint8]:
    """The first frame as FFmpeg decodes it; uint8 [H, W, 3]."""
    with open_container(source) as container:
        for frame in container.decode(video=0) if container.streams.video else ():
            return _to_rgb(frame.to_ndarray(format="bgra"), header)
    raise MediaError(f"{source.name} holds no picture: it is damaged or cut off. Copy it again.")


def _to_rgb(pixels: NDArray[Any], header: PictureHeader) -> NDArray[np.uint8]:
    """OpenCV's grey, BGR or BGRA of 8 or 16 bits as 8-bit RGB over white, strip by strip."""
    grey = pixels.ndim == 2 or pixels.shape[2] == 1
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    result = np.empty((*pixels.shape[:2], 3), np.uint8)
    step = max(1, _STRIP_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), step):
        strip = pixels[top : top + step]
        colour = strip[..., [0, 0, 0] if grey or strip.shape[2] < 3 else [2, 1, 0]]
        transparent = None
        if header.colour_key is not None:
            transparent = (colour == np.array(header.colour_key, colour.dtype)).all(axis=2)
        if colour.dtype == np.uint16:
            strip, colour = (strip >> 8).astype(np.uint8), (colour >> 8).astype(np.uint8)
        if strip.shape[2] in (2, 4) and header.alpha != "none":
            # libtiff multiplies 8-bit pictures by their transparency while it reads them.
            multiplied = header.alpha == "premultiplied" or (header.kind == "tiff" and pixels.dtype == np.uint8)
            colour = _over_white(colour, strip[..., -1:], multiplied=multiplied)
        if transparent is not None:
            colour[transparent] = 255
        result[top : top + step] = colour
    return result


def _over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8], *, multiplied: bool) -> NDArray[np.uint8]:
    """Colours [H, W, 3] with transparency [H, W, 1] over white; `multiplied`: the colours are weighted already."""
    wide = alpha.astype(np.uint16)
    if multiplied:
        sums: NDArray[np.uint16] = colour + (255 - wide)
        return np.minimum(sums, 255).astype(np.uint8)
    # Division by 255, rounded, in 16 bits.
    blended = colour * wide + (255 * (255 - wide) + 128)
    return ((blended + (blended >> 8)) >> 8).astype(np.uint8)


def _oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture [H, W, 3] as Exif's orientation 1 to 8 wants it shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    up = orientation in (3, 4, 7, 8)
    left = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if up else 1, :: -1 if left else 1])
