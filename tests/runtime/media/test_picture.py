"""Pictures against Pillow: orientation, transparency, depths, damage, size limits, and silence on stderr."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from omni_edge.errors import MediaError
from omni_edge.media import load_image

ORIENTATIONS = range(1, 9)


def gradient(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([3 * x, 4 * y, 255 - 3 * x], axis=2).astype(np.uint8)


def encoded(picture: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


def pixels(file: io.BytesIO | bytes) -> NDArray[np.int64]:
    data = file if isinstance(file, bytes) else file.getvalue()
    return load_image(io.BytesIO(data)).pixels.astype(int)


def over_white(picture: Image.Image) -> NDArray[np.int64]:
    picture = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, (255, 255, 255))
    white.paste(picture, mask=picture.split()[3])
    return np.asarray(white).astype(int)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_every_orientation_is_applied(kind: str, transparent: bool, orientation: int) -> None:
    picture = Image.fromarray(gradient())
    if transparent and kind != "JPEG":
        picture.putalpha(Image.fromarray(np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(60, axis=0)))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    file = encoded(picture, kind, exif=turned(orientation), **options)
    wanted = over_white(ImageOps.exif_transpose(Image.open(file)))
    found = pixels(file)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < (0.8 if kind in ("JPEG", "AVIF") else 0.3)
    assert np.abs(found - wanted).max() <= (24 if kind in ("JPEG", "AVIF") else 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG", "PPM", "JPEG2000", "TGA"])
def test_modes(kind: str, mode: str) -> None:
    """Whatever Pillow can write is read with Pillow's values, or refused in words."""
    picture = Image.fromarray(gradient())
    if mode == "I;16":
        if kind not in ("PNG", "TIFF"):
            return  # converted by Pillow itself
        picture = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257)
    else:
        picture.putalpha(Image.fromarray(np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(60, axis=0)))
        picture = picture.convert(mode)
    try:
        file = encoded(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
    except (OSError, ValueError):
        return  # this format has no such mode
    if kind == "TGA" or (kind == "JPEG2000" and mode in ("LA", "CMYK")):
        with pytest.raises(MediaError, match=r"convert it to PNG|Convert it to JPEG or PNG"):
            pixels(file)
        return
    wanted = np.repeat(gradient()[..., :1], 3, axis=2) if mode == "I;16" else over_white(Image.open(file))
    if kind == "BMP" and mode == "RGBA":
        wanted = np.asarray(picture.convert("RGB")).astype(int)  # most programs leave this channel at 0
    difference = np.abs(pixels(file) - wanted)
    assert difference.max() <= {"JPEG": 40, "JPEG2000": 2}.get(kind, 1)
    assert difference.mean() < 1.5


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_transparency_of_tiff_by_its_meaning(extra: int, depth: int) -> None:
    """ExtraSamples 1 is multiplied by alpha already, 2 is not, 0 is no transparency at all."""
    stored = np.array([100, 50, 20, 128] if extra else [100, 50, 20, 7])
    scale = 257 if depth == 16 else 1
    data = (stored * scale).astype(f"<u{depth // 8}").tobytes() * 16
    entries = [
        (256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 4, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 208),
        (277, 3, 1, 4), (278, 3, 1, 4), (279, 4, 1, len(data)), (284, 3, 1, 1), (338, 3, 1, extra),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    file = (b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + struct.pack("<4H", *[depth] * 4) + data
    colour, alpha = stored[:3], stored[3] / 255
    wanted = {0: colour, 1: colour + 255 * (1 - alpha), 2: colour * alpha + 255 * (1 - alpha)}[extra]
    assert np.abs(pixels(file)[2, 2] - wanted).max() <= 1


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize(
    ("depth", "colour", "key", "row", "wanted"),
    [
        (8, 0, struct.pack(">H", 9), bytes([9, 10]), [255, 10]),
        (16, 0, struct.pack(">H", 0x0900), struct.pack(">2H", 0x0900, 0x0901), [255, 9]),
        (2, 0, struct.pack(">H", 1), bytes([0b01100000]), [255, 170]),
        (8, 2, struct.pack(">3H", 9, 9, 9), bytes([9, 9, 9, 10, 10, 10]), [255, 10]),
        (16, 2, struct.pack(">3H", *[0x0900] * 3), struct.pack(">6H", *[0x0900] * 3, *[0x0901] * 3), [255, 9]),
    ],
)
def test_colour_keys_are_transparent(depth: int, colour: int, key: bytes, row: bytes, wanted: list[int]) -> None:
    found = pixels(png(2, 1, depth, colour, b"\0" + row, chunk(b"tRNS", key)))
    assert found[0].tolist() == [[value] * 3 for value in wanted]


def test_transparent_palettes_are_laid_over_white() -> None:
    file = png(2, 1, 8, 3, b"\0\0\1", chunk(b"PLTE", bytes([200, 0, 0, 0, 200, 0])), chunk(b"tRNS", bytes([0, 255])))
    assert pixels(file)[0].tolist() == [[255, 255, 255], [0, 200, 0]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_animation_shows_its_first_frame(kind: str) -> None:
    first = Image.new("RGB", (64, 48), (200, 30, 30))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    more = [Image.new("RGB", (64, 48), (30, 30, 200))]
    file = encoded(first, kind, save_all=True, append_images=more, **options)
    assert np.abs(pixels(file) - [200, 30, 30]).max() <= (6 if kind == "AVIF" else 0)


def test_a_transparent_gif_is_laid_over_white() -> None:
    picture = Image.new("RGBA", (8, 8), (10, 200, 30, 255))
    picture.putpixel((3, 2), (0, 0, 0, 0))
    found = pixels(encoded(picture, "GIF"))
    assert found[2, 3].tolist() == [255, 255, 255]
    assert found[0, 0].tolist() == [10, 200, 30]


def sized(kind: str, width: int, height: int) -> bytes:
    """A small file whose header declares so many pixels."""
    if kind == "png":
        return png(width, height, 8, 2, b"\0")
    if kind == "bmp":
        return (
            b"BM"
            + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, width, -height, 1, 24, 0, 6, 0, 0, 0, 0)
            + bytes(6)
        )
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HH", min(width, 65535), min(height, 65535)) + bytes(60)
    if kind == "jpeg":
        frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, min(height, 65535), min(width, 65535), 1) + bytes([1, 17, 0])
        return b"\xff\xd8" + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes(9) + b"\xff\xd9"
    if kind == "webp":
        body = (
            b"VP8X"
            + struct.pack("<I", 10)
            + bytes(4)
            + struct.pack("<I", width - 1)[:3]
            + struct.pack("<I", height - 1)[:3]
        )
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    if kind == "tiff":
        entries = [(256, 4, 1, width), (257, 4, 1, height)]
        directory = struct.pack(">H", 2) + b"".join(struct.pack(">HHII", *entry) for entry in entries)
        return b"MM\0*" + struct.pack(">I", 8) + directory + bytes(4)
    if kind == "jp2":
        return b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, width, height, 0, 0) + bytes(60)
    if kind == "avif":
        ispe = struct.pack(">I4sIII", 20, b"ispe", 0, width, height)
        ipco = struct.pack(">I4s", 8 + len(ispe), b"ipco") + ispe
        iprp = struct.pack(">I4s", 8 + len(ipco), b"iprp") + ipco
        meta = struct.pack(">I4sI", 12 + len(iprp), b"meta", 0) + iprp
        return struct.pack(">I4s4sI", 16, b"ftyp", b"avif", 0) + meta
    if kind == "hdr":
        return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width) + bytes(60)
    if kind == "sun":
        return struct.pack(">8I", 0x59A66A95, width, height, 24, 0, 1, 0, 0)
    return b"P6 # a comment\n%d %d 255\n" % (width, height)


@pytest.mark.parametrize("size", [(30_000, 30_000), (65_535, 65_535), (4_000_000, 40)])
@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "jpeg", "webp", "tiff", "jp2", "avif", "hdr", "sun", "ppm"])
def test_too_many_pixels_are_refused_by_the_header(
    kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*arguments: object) -> None:
        raise AssertionError("decoded")

    if kind in ("gif", "jpeg") and max(size) > 65_535:
        return
    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(MediaError, match=r"million is the most|in a row is the most"):
        pixels(sized(kind, *size))


def test_a_file_of_a_gibibyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(png(1, 1, 8, 2, b"\0\1\2\3"))
        file.truncate((1 << 30) + 1)
    with pytest.raises(MediaError, match="too much for a picture"):
        load_image(path)


def test_a_photograph_beyond_64_million_pixels_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_edge.media.picture._WHOLE_JPEG_PIXELS", 1000)
    file = encoded(Image.fromarray(gradient()), "JPEG", quality=95, exif=turned(6))
    found = pixels(file)
    assert found.shape == (40, 30, 3)
    wanted = np.rot90(gradient(), -1).reshape(40, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - wanted).mean() < 3


def test_heic_is_named() -> None:
    with pytest.raises(MediaError, match="HEIC picture"):
        pixels(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))


def test_a_broken_check_sum_is_damage() -> None:
    data = bytearray(encoded(Image.fromarray(gradient()), "PNG").getvalue())
    data[data.index(b"IDAT") + 20] ^= 0x55
    with pytest.raises(MediaError, match="damaged: the check sum of its IDAT"):
        pixels(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000"])
def test_the_decoders_own_lines_never_reach_stderr(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """libjpeg, libpng and OpenCV's log write to descriptor 2 themselves: "Corrupt JPEG data", "iCCP: too short"."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    whole = encoded(picture, kind, **({"icc_profile": b"x" * 200} if kind == "PNG" else {})).getvalue()
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 40] = b"\xff\xd3" * 20
    log = cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging
    level = log.getLogLevel()
    for data in (whole, bytes(broken), whole[: len(whole) * 2 // 3], whole + b"tail"):
        with suppress(MediaError):
            pixels(data)
    assert capfd.readouterr().err == ""
    assert log.getLogLevel() == level


def test_our_own_lines_still_reach_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    import os
    import sys

    from omni_edge.media.quiet import quiet

    with quiet(), quiet():
        os.write(2, b"descriptor\n")
        print("python", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "descriptor\npython\n"
