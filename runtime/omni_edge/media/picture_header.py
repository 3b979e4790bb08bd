"""The header of a picture file, read before a pixel is decoded: size, orientation and transparency."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_EXIF_START = b"Exif\x00\x00"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_MARK, _JPEG_APP1 = 0xDA, 0xFF, 0xE1
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_RGB = 0, 2
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION, _TIFF_SAMPLES, _TIFF_EXTRA_SAMPLES = 256, 257, 274, 277, 338
_TIFF_SIZES = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}
_MOST_TAGS = 4096


class DamagedError(ValueError):
    """The header contradicts itself, or the file ends within it."""


class CutOffError(DamagedError):
    """The file ends before the picture does."""


@dataclass(frozen=True)
class PictureHeader:
    """What is known of a picture before it is decoded.

    Attributes:
        kind: the format's name, lower case.
        width: columns as stored, before the orientation.
        height: rows as stored.
        orientation: 1 to 8 as in Exif: what has to be done to the stored rows. 1 where the decoder does it.
        colour_key: the one grey level or RGB colour that is transparent, as stored.
        alpha: "straight", "premultiplied", or "none" where the fourth channel means something else.
        opencv: False where OpenCV drops the transparency and FFmpeg does not.
        data: what to decode: the file, for PNG without the chunks that only add metadata.
    """

    kind: str
    width: int
    height: int
    data: bytes
    orientation: int = 1
    colour_key: tuple[int, ...] | None = None
    alpha: str = "straight"
    opencv: bool = True


def read_header(data: bytes) -> PictureHeader | None:
    """The header of a picture file; None where it is of no format known here.

    Raises:
        DamagedError: the format is known, but the header is broken.
        CutOffError: the file ends too early.
    """
    for starts, offset, read in _FORMATS:
        if any(data.startswith(start, offset) for start in starts):
            try:
                return read(data)
            except (struct.error, IndexError):
                raise CutOffError("the header is incomplete") from None
    return None


def _png(data: bytes) -> PictureHeader:
    """Every chunk's check sum is compared here; only what makes the picture is handed on."""
    kept = [_PNG_START]
    orientation, key, position = 1, None, len(_PNG_START)
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    while True:
        if position + 12 > len(data):
            raise CutOffError("the picture has no end")
        (size,) = struct.unpack_from(">I", data, position)
        name, end = data[position + 4 : position + 8], position + 12 + size
        if end > len(data):
            raise CutOffError("the picture has no end")
        body = data[position + 8 : end - 4]
        whole = zlib.crc32(body, zlib.crc32(name)) == struct.unpack_from(">I", data, end - 4)[0]
        if name == b"eXIf" and whole:
            orientation = _exif_orientation(body)
        elif name == b"tRNS" and whole and colour in (_PNG_GREY, _PNG_RGB):
            key = struct.unpack_from(">H" if colour == _PNG_GREY else ">HHH", body)
            if depth < 8:
                key = (key[0] * 255 // ((1 << depth) - 1),)
        elif name in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"):
            if not whole:
                raise DamagedError(f"the check sum of its {name.decode('ascii')} chunk is wrong")
            kept.append(data[position:end])
        if name == b"IEND":
            return PictureHeader("png", width, height, b"".join(kept), orientation, key)
        position = end


def _jpeg(data: bytes) -> PictureHeader:
    size, orientation = None, 1
    for mark, start, body in _jpeg_segments(data):
        if mark == _JPEG_APP1 and body.startswith(_EXIF_START) and orientation == 1:
            orientation = _exif_orientation(body[len(_EXIF_START) :])
        elif mark in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", body, 1)
            size = (width, height)
        elif mark == _JPEG_SCAN:
            if size is None:
                raise DamagedError("it has no frame header")
            # The end is searched behind the first scan: a thumbnail in the header has an end of its own.
            if data.find(b"\xff\xd9", start) < 0:
                raise CutOffError("the picture has no end")
            return PictureHeader("jpeg", *size, data, orientation, alpha="none")
    raise CutOffError("the picture has no end")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(marker, offset, content) of the segments up to the first scan; bytes between segments are passed over."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != _JPEG_MARK or data[position + 1] in (0, _JPEG_MARK):
            position += 1
            continue
        mark = data[position + 1]
        if mark in _JPEG_ALONE:
            position += 2
            continue
        (size,) = struct.unpack_from(">H", data, position + 2)
        yield mark, position, data[position + 4 : position + 2 + size]
        position += 2 + max(size, 2)


def _webp(data: bytes) -> PictureHeader:
    size, orientation, position = None, 1, 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        start = position + 8
        if name == b"VP8X":
            size = size or (
                1 + int.from_bytes(data[start + 4 : start + 7], "little"),
                1 + int.from_bytes(data[start + 7 : start + 10], "little"),
            )
        elif name == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, start + 1)
            size = size or (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        elif name == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, start + 6)
            size = size or (width & 0x3FFF, height & 0x3FFF)
        elif name == b"EXIF":
            body = data[start : start + length]
            orientation = _exif_orientation(body.removeprefix(_EXIF_START))
        if start + length > len(data):
            raise CutOffError("the picture has no end")
        position = start + length + length % 2
    if size is None:
        raise DamagedError("it has no picture")
    return PictureHeader("webp", *size, data, orientation)


def _gif(data: bytes) -> PictureHeader:
    width, height = struct.unpack_from("<HH", data, 6)
    return PictureHeader("gif", width, height, data, opencv=False)


def _bmp(data: bytes) -> PictureHeader:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return PictureHeader("bmp", abs(width), abs(height), data)


def _tiff(data: bytes) -> PictureHeader:
    tags = _tiff_tags(data)
    if _TIFF_WIDTH not in tags or _TIFF_HEIGHT not in tags:
        raise DamagedError("its directory lacks the size")
    # 1: multiplied by alpha; 2: not multiplied; 0 or none: a fourth channel of unknown meaning.
    alpha = {1: "premultiplied", 2: "straight"}.get(tags.get(_TIFF_EXTRA_SAMPLES, 0), "none")
    width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    if tags.get(_TIFF_SAMPLES) == 2 and alpha != "none":
        orientation = tags.get(_TIFF_ORIENTATION, 1)
        return PictureHeader("grey tiff", width, height, data, orientation, alpha=alpha, opencv=False)
    # OpenCV turns a TIFF whatever it is asked.
    return PictureHeader("tiff", width, height, data, alpha=alpha)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First value of each whole-number tag in the first directory of a TIFF file or an Exif block."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise DamagedError("it has no byte order")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, count, width = ("Q", "Q", 20) if big else ("I", "H", 12)
    (place,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, place)
    place += struct.calcsize(order + count)
    tags: dict[int, int] = {}
    for entry in range(place, place + min(entries, _MOST_TAGS) * width, width):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        (values,) = struct.unpack_from(order + word, data, entry + 4)
        form = _TIFF_SIZES.get(kind)
        if form is None or not values:
            continue
        value = entry + (12 if big else 8)
        if form[1] * values > (8 if big else 4):
            (value,) = struct.unpack_from(order + word, data, value)
        (tags[tag],) = struct.unpack_from(order + form[0], data, value)
    return tags


def _exif_orientation(block: bytes) -> int:
    """1 to 8; a broken block turns nothing."""
    try:
        orientation = _tiff_tags(block).get(_TIFF_ORIENTATION, 1)
    except (DamagedError, struct.error):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _avif(data: bytes) -> PictureHeader:
    """Sizes and turns are properties of the picture's parts; all parts of one picture are turned alike."""
    sizes, turns, mirror = [(0, 0)], 0, None
    for name, start, end in _boxes(data, 0, len(data), (b"meta", b"iprp", b"ipco")):
        if name == b"ispe":
            sizes.append(struct.unpack_from(">II", data, start + 4))
        elif name == b"irot" and start < end:
            turns = data[start] & 3
        elif name == b"imir" and start < end:
            mirror = data[start] & 1
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    if not width or not height:
        raise DamagedError("it has no picture")
    return PictureHeader("avif", width, height, data, _AVIF_ORIENTATIONS[turns, mirror])


# Exif's number for so many quarter turns to the left, then a mirroring: None, 0 (top and bottom), 1 (left and right).
_AVIF_ORIENTATIONS = {
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip


def _boxes(data: bytes, start: int, end: int, into: tuple[bytes, ...]) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end of the content) of the boxes of an ISO file, and of those inside the boxes named `into`."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = end if size == 0 else start + size
        if stop > end or stop < body:
            return
        yield name, body, stop
        if name in into:
            # `meta` has a version and flags before its boxes.
            yield from _boxes(data, body + (4 if name == b"meta" else 0), stop, into)
        start = stop


def _jpeg2000(data: bytes) -> PictureHeader:
    place = data.find(b"\xff\x4f\xff\x51")
    if place < 0:
        raise CutOffError("it has no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, place + 8)
    return PictureHeader("jpeg 2000", right - left, bottom - top, data)


def _sun_raster(data: bytes) -> PictureHeader:
    width, height = struct.unpack_from(">II", data, 4)
    return PictureHeader("sun raster", width, height, data)


def _text_header(kind: str, pattern: bytes, width: int, height: int) -> Callable[[bytes], PictureHeader]:
    """A reader of headers that are text; `width` and `height` are groups of `pattern`."""
    expression = re.compile(pattern, re.DOTALL)

    def read(data: bytes) -> PictureHeader:
        # A comment reaches to the end of its line.
        found = expression.match(re.sub(rb"#[^?\n][^\n]*\n", b"\n", data[:_TEXT_HEADER_BYTES]))
        if found is None:
            raise DamagedError("its header does not state the size")
        return PictureHeader(kind, int(found[width]), int(found[height]), data)

    return read


_TEXT_HEADER_BYTES = 4096
_PNM = _text_header("pnm", rb"P[1-6fF]\s+(\d{1,9})\s+(\d{1,9})\s", 1, 2)
_PAM = _text_header("pam", rb"P7\s.*?WIDTH\s+(\d{1,9})\s+HEIGHT\s+(\d{1,9})\s", 1, 2)
_HDR = _text_header("radiance", rb"#\?.*?-Y\s+(\d{1,9})\s+\+X\s+(\d{1,9})\s", 2, 1)
_FORMATS: tuple[tuple[tuple[bytes, ...], int, Callable[[bytes], PictureHeader]], ...] = (
    ((_PNG_START,), 0, _png),
    ((b"\xff\xd8\xff",), 0, _jpeg),
    ((b"WEBP",), 8, _webp),
    ((b"GIF87a", b"GIF89a"), 0, _gif),
    ((b"BM",), 0, _bmp),
    ((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), 0, _tiff),
    ((b"ftypavif", b"ftypavis"), 4, _avif),
    ((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"), 0, _jpeg2000),
    ((b"\x59\xa6\x6a\x95",), 0, _sun_raster),
    ((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF"), 0, _PNM),
    ((b"P7",), 0, _PAM),
    ((b"#?",), 0, _HDR),
)
