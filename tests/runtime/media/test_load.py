"""Files as input: sound, pictures and videos that the test writes itself, whole and damaged."""

from __future__ import annotations

import sys
import wave
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from omni_edge.errors import MediaError
from omni_edge.events import AudioClip, VideoClip
from omni_edge.media.load import load_audio, load_image, load_video
from omni_edge.vision.image_processor import video_size
from omni_edge.vision.resize import resize
from support.perception import VISION, tone

SECONDS = 2.0
TONE_HZ = 440.0


def write_sound(path: Path, codec: str, rate: int, layout: str = "stereo", offset: float = 0.0) -> None:
    """A 440 Hz tone of amplitude 0.6 on the left, 0.2 on the right: their mean is 0.4."""
    with av.open(str(path), "w") as container:
        encode_sound(container, codec, rate, layout, offset)


def encode_sound(container: Any, codec: str, rate: int, layout: str, offset: float) -> None:
    stream = container.add_stream(codec, rate=rate, layout=layout)
    parts = [tone(TONE_HZ, rate, SECONDS, level) for level in ((0.6, 0.2) if layout == "stereo" else (0.4,))]
    frame = av.AudioFrame.from_ndarray(np.stack(parts), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate, frame_size=960)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        piece.pts += round(offset * rate)
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))


def write_video(
    path: Path, codec: str, sound: str | None = None, *, frames: int = 50, fps: int = 25, offset: float = 0.0
) -> None:
    """Grey frames whose level is 4 times their index, the left half darker."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.bit_rate = 4_000_000
        if sound:
            encode_sound(container, sound, 48000, "mono", offset)
        for index in range(frames):
            pixels = np.full((240, 320, 3), 4 * index, np.uint8)
            pixels[:, :160] //= 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def assert_tone(clip: AudioClip, start: float = 0.0, tolerance: float = 0.02) -> None:
    """The clip is the test tone from `start` on, whatever its phase, and silence before."""
    first = round(start * clip.rate)
    middle = clip.samples[first + clip.rate // 4 :][: clip.rate]
    time = np.arange(middle.size) / clip.rate
    carrier = np.exp(-2j * np.pi * TONE_HZ * time)
    assert abs(2 * np.mean(middle * carrier)) == pytest.approx(0.4, abs=tolerance)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / np.sqrt(2), abs=tolerance)
    if first:
        assert np.abs(clip.samples[: first - clip.rate // 50]).max() < tolerance


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 44100),
        ("a24.wav", "pcm_s24le", 48000),
        ("float.wav", "pcm_f32le", 16000),
        ("a.flac", "flac", 44100),
        ("a.mp3", "libmp3lame", 44100),
        ("a.ogg", "libopus", 48000),
        ("a.m4a", "aac", 44100),
        ("a.mkv", "flac", 22050),
    ],
)
def test_sound_files_load_as_mono_at_their_own_rate(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    write_sound(tmp_path / name, codec, rate)
    clip = load_audio(tmp_path / name)
    assert clip.rate == rate
    assert clip.samples.dtype == np.float32
    assert clip.samples.size / rate == pytest.approx(SECONDS, abs=0.1)
    assert_tone(clip)


def test_lossless_sound_keeps_its_values(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.flac", "flac", 44100)
    np.testing.assert_allclose(load_audio(tmp_path / "a.flac").samples, tone(TONE_HZ, 44100, SECONDS, 0.4), atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_plain_wav_needs_no_package(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.stack([tone(TONE_HZ, 8000, 0.5, 0.6), tone(TONE_HZ, 8000, 0.5, 0.2)], axis=1)
    top = np.round(wanted * (2 ** (8 * width - 1) - 1)).astype("<i8")
    data = (top + 128).astype(np.uint8) if width == 1 else top.reshape(-1, 1).view(np.uint8)[:, :width]
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, width, 8000, 0, "NONE", ""))
        file.writeframes(data.tobytes())
    with_av = load_audio(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, "av", None)
    clip = load_audio(tmp_path / "a.wav")
    assert clip.rate == with_av.rate == 8000
    np.testing.assert_allclose(clip.samples, wanted.mean(axis=1), atol=1.5 / 2 ** (8 * width - 1) + 1e-6)
    np.testing.assert_allclose(clip.samples, with_av.samples, atol=1e-6)
    with pytest.raises(MediaError, match="more than 0 s"):
        load_audio(tmp_path / "a.wav", longest=0.4)


def test_without_the_packages_the_message_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp3").write_bytes(b"ID3 and so on")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    for load in (load_audio, load_image, lambda path: load_video(path, VISION)):
        with pytest.raises(MediaError, match=r"omni-edge\[media\]"):
            load(tmp_path / "a.mp3")


def test_a_sound_that_is_too_long_is_refused(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.flac", "flac", 44100)
    assert load_audio(tmp_path / "a.flac", longest=SECONDS).samples.size == SECONDS * 44100
    with pytest.raises(MediaError, match="more than 1 s"):
        load_audio(tmp_path / "a.flac", longest=1.0)


def test_sound_without_numbers_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "nan.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 1000), np.nan, np.float32), format="flt", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="no numbers"):
        load_audio(tmp_path / "nan.wav")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.wav", "pcm_s16le"), ("f.wav", "pcm_f32le"), ("a.flac", "flac"), ("a.m4a", "aac")]
)
def test_half_a_sound_file_is_refused(tmp_path: Path, name: str, codec: str) -> None:
    write_sound(tmp_path / name, codec, 44100)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="cut off"):
        load_audio(tmp_path / name)


@pytest.mark.parametrize("load", [load_audio, load_image, lambda path: load_video(path, VISION)])
def test_files_that_are_no_media_are_refused(tmp_path: Path, load: Any) -> None:
    with pytest.raises(MediaError, match="no file"):
        load(tmp_path / "missing.mp4")
    with pytest.raises(MediaError, match="no file"):
        load(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match="0 bytes"):
        load(tmp_path / "empty.mp4")
    for name, content in (("text.mp4", b"not a medium at all\n" * 99), ("noise.mp4", bytes(range(1, 251)) * 40)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=name):
            load(tmp_path / name)


def test_a_file_without_the_wanted_stream_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "silent.mp4", "mpeg4")
    with pytest.raises(MediaError, match="holds no sound"):
        load_audio(tmp_path / "silent.mp4")
    write_sound(tmp_path / "a.wav", "pcm_s16le", 16000)
    with pytest.raises(MediaError, match="holds no video"):
        load_video(tmp_path / "a.wav", VISION)


def gradient() -> NDArray[np.uint8]:
    y, x = np.mgrid[0:60, 0:80].astype(np.uint8)
    return np.stack([3 * x, 4 * y, 255 - 3 * x], axis=2)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp"])
def test_lossless_pictures_keep_their_bytes(tmp_path: Path, name: str) -> None:
    Image.fromarray(gradient()).save(tmp_path / name, lossless=True)
    np.testing.assert_array_equal(load_image(tmp_path / name).pixels, gradient())


def test_jpeg_is_within_decoder_rounding_of_pillow(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", quality=95)
    wanted = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")).astype(int)
    assert np.abs(load_image(tmp_path / "a.jpg").pixels - wanted).max() <= 3


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", quality=95, exif=exif)
    pixels = load_image(tmp_path / "a.jpg").pixels
    assert pixels.shape == (80, 60, 3)
    assert np.abs(pixels.astype(int) - np.rot90(gradient(), -1)).mean() < 3


def test_filler_before_a_jpeg_marker_is_allowed(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "a.jpg")
    pixels = load_image(tmp_path / "a.jpg").pixels
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xff" + data[2:])
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg").pixels, pixels)


def test_grey_and_16_bit_pictures_become_rgb(tmp_path: Path) -> None:
    grey = gradient()[..., 0]
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 257)
    for name in ("grey.png", "deep.png"):
        np.testing.assert_array_equal(load_image(tmp_path / name).pixels, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_is_laid_over_white(tmp_path: Path, depth: int) -> None:
    alpha = np.linspace(0, 255, 80).astype(np.uint8)[None, :].repeat(60, axis=0)
    picture = np.dstack([gradient(), alpha])
    bgra = picture[..., [2, 1, 0, 3]]
    cv2.imwrite(str(tmp_path / "a.png"), bgra if depth == 8 else bgra.astype(np.uint16) * 257)
    white = Image.new("RGB", (80, 60), (255, 255, 255))
    layer = Image.fromarray(picture)
    white.paste(layer, mask=layer.split()[3])
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").pixels, np.asarray(white))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_half_a_picture_is_refused(tmp_path: Path, name: str) -> None:
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "\xff\xd9 an end in the header"
    Image.fromarray(gradient()).save(tmp_path / name, exif=thumbnail)
    data = (tmp_path / name).read_bytes()
    assert load_image(tmp_path / name).pixels.shape == (60, 80, 3)
    (tmp_path / name).write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(MediaError, match="cut off"):
        load_image(tmp_path / name)


def levels(clip: VideoClip) -> NDArray[np.float64]:
    """Mean level of the right half of each frame, divided by 4: the index of the frame in the file."""
    right = clip.frames[:, :, clip.frames.shape[2] * 3 // 4 :]
    return right.mean(axis=(1, 2, 3)) / 4


@pytest.mark.parametrize(
    ("name", "video", "sound"),
    [("a.mp4", "libx264", "aac"), ("a.mov", "mpeg4", "aac"), ("a.webm", "libvpx", "libopus"), ("a.mkv", "mpeg4", None)],
)
def test_videos_load_the_frames_that_the_model_sees(tmp_path: Path, name: str, video: str, sound: str | None) -> None:
    write_video(tmp_path / name, video, sound)
    clip = load_video(tmp_path / name, VISION)
    assert clip.fps == pytest.approx(2.0)
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape == (4, *video_size(4, 240, 320, VISION), 3)
    np.testing.assert_allclose(levels(clip), [0, 16, 33, 49], atol=0.7)
    # The left half is half as bright.
    left = clip.frames[:, :, : clip.frames.shape[2] // 4].mean(axis=(1, 2, 3)) / 4
    np.testing.assert_allclose(left, levels(clip) / 2, atol=0.7)
    if sound is None:
        assert clip.sound is None
    else:
        assert clip.sound is not None
        assert clip.sound.rate == 48000
        assert_tone(clip.sound)
        assert load_video(tmp_path / name, VISION, sound=False).sound is None


def test_long_videos_are_sampled_by_time(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", "mpeg4", frames=60, fps=10)
    clip = load_video(tmp_path / "a.mp4", VISION)
    assert clip.fps == pytest.approx(2.0)
    np.testing.assert_allclose(levels(clip), np.linspace(0, 59, 12).round(), atol=0.7)


def test_a_single_frame_is_shown_twice(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", "mpeg4", frames=1)
    clip = load_video(tmp_path / "a.mp4", VISION)
    assert len(clip.frames) == 2
    np.testing.assert_array_equal(clip.frames[0], clip.frames[1])


def test_a_sound_that_starts_later_is_preceded_by_silence(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", "mpeg4", "flac", offset=0.5)
    sound = load_video(tmp_path / "a.mkv", VISION).sound
    assert sound is not None
    assert sound.samples.size == pytest.approx((SECONDS + 0.5) * 48000, abs=100)
    assert_tone(sound, start=0.5)


def test_a_telephone_held_upright(tmp_path: Path) -> None:
    """The display matrix in the track header, as a telephone writes it: turn by a quarter, clockwise."""
    path = tmp_path / "a.mp4"
    write_video(path, "mpeg4", frames=10)
    upright = load_video(path, VISION)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    one, minus_one = (0x10000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    assert data[matrix : matrix + 4] == one
    zero = bytes(4)
    data[matrix : matrix + 20] = zero + one + zero + minus_one + zero
    path.write_bytes(data)
    turned = load_video(path, VISION)
    assert turned.frames.shape[1:3] == upright.frames.shape[2:0:-1]
    # The dark left half is now on top.
    half = turned.frames.shape[1] // 2
    assert turned.frames[-1, : half - 20].mean() == pytest.approx(18, abs=1.5)
    assert turned.frames[-1, half + 20 :].mean() == pytest.approx(36, abs=1.5)


def test_half_a_video_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", "mpeg4")
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="cut off"):
        load_video(tmp_path / "a.mp4", VISION)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    cover = cv2.imencode(".png", gradient())[1].tobytes()
    write_sound(path, "libmp3lame", 44100)
    body = path.read_bytes()
    start = 10 + int.from_bytes(body[6:10], "big") if body[:3] == b"ID3" else 0
    content = b"\x00image/png\x00\x03\x00" + cover
    frame = b"APIC" + len(content).to_bytes(4, "big") + bytes(2) + content
    size = len(frame)
    safe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\x00\x00" + safe + frame + body[start:])
    assert_tone(load_audio(path))
    with pytest.raises(MediaError, match="holds no video"):
        load_video(path, VISION)


def test_loaded_frames_are_pillow_resized_decoded_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", "mpeg4", frames=4)
    clip = load_video(tmp_path / "a.mp4", VISION)
    with av.open(str(tmp_path / "a.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = np.stack([resize(frame, *clip.frames.shape[1:3]) for frame in decoded])
    np.testing.assert_array_equal(clip.frames, wanted)
