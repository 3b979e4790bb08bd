"""Time stamps: gaps, jumps, changes within a stream, variable frame rates, turned and mirrored films."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.errors import MediaError
from omni_edge.media import load_audio, load_video
from omni_edge.media.video_track import _upright
from support.perception import VISION, tone

DATA = Path(__file__).parents[2] / "data"
RATE = 48_000
CLOCK = Fraction(1, 1000)


def write_film(
    path: Path,
    times: Sequence[float],
    *,
    codec: str = "mpeg4",
    sound: str | None = None,
    gaps: Sequence[tuple[float, float]] = (),
    seconds: float = 0.0,
    size: tuple[int, int] = (160, 120),
    scale: float = 2.0,
) -> Path:
    """Frames at `times` whose grey level is `scale` times their time, with a tone that is absent in `gaps`."""
    with av.open(str(path), "w") as container:
        if len(times):
            video = container.add_stream(codec, rate=25)
            video.width, video.height, video.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            video.codec_context.time_base = CLOCK
            video.codec_context.bit_rate = 2_000_000
        if sound:
            audio = container.add_stream(sound, rate=RATE, layout="mono")
        if len(times):
            for time in times:
                frame = av.VideoFrame.from_ndarray(
                    np.full((*size[::-1], 3), round(scale * time), np.uint8), format="rgb24"
                )
                frame.pts, frame.time_base = round(time / CLOCK), CLOCK
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if sound:
            samples = tone(440, RATE, seconds, 0.4)
            size_of_frame = audio.codec_context.frame_size or 1024
            for start in range(0, samples.size - size_of_frame + 1, size_of_frame):
                if any(first <= start / RATE < end for first, end in gaps):
                    continue
                piece = samples[None, start : start + size_of_frame]
                planar = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                planar.sample_rate, planar.pts, planar.time_base = RATE, start, Fraction(1, RATE)
                for converted in av.AudioResampler(format=audio.codec_context.format).resample(planar):
                    converted.pts, converted.time_base = start, Fraction(1, RATE)
                    container.mux(audio.encode(converted))
            container.mux(audio.encode(None))
    return path


def seen(frames: NDArray[np.uint8], scale: float = 2.0) -> NDArray[np.float64]:
    """Time of each frame, by its grey level."""
    return frames.mean(axis=(1, 2, 3)) / scale


def loud(samples: NDArray[np.float32], rate: int) -> list[int]:
    """The tenths of a second that hold sound."""
    tenth = rate // 10
    blocks = samples[: samples.size // tenth * tenth].reshape(-1, tenth)
    return np.flatnonzero(np.sqrt((blocks**2).mean(axis=1)) > 0.2).tolist()


FAST_THEN_SLOW = [*np.arange(100) / 25, *range(4, 40)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.flv", "a.webm"])
def test_frames_of_a_variable_rate_are_chosen_by_time(tmp_path: Path, name: str) -> None:
    codec = {"a.webm": "libvpx", "a.flv": "flv1"}.get(name, "mpeg4")
    film = load_video(write_film(tmp_path / name, FAST_THEN_SLOW, codec=codec), VISION)
    assert len(film.frames) / film.fps == pytest.approx(40.0, abs=0.1)
    assert film.fps == pytest.approx(2.0, abs=0.01)
    moments = np.arange(80) / 2
    wanted = np.where(moments < 4, moments, np.floor(moments))
    np.testing.assert_allclose(seen(film.frames), wanted, atol=1.0)
    assert (seen(film.frames) > 4.5).sum() == 70


def test_a_slide_show_keeps_every_slide(tmp_path: Path) -> None:
    film = load_video(write_film(tmp_path / "a.mkv", [0, 10, 13, 40, 60]), VISION)
    assert len(film.frames) == 122  # 61 s: the last slide counts as 1 s
    times = seen(film.frames)
    assert np.unique(times) == pytest.approx([0, 10, 13, 40, 60], abs=1)
    assert np.bincount(np.unique(times, return_inverse=True)[1]).tolist() == [20, 6, 54, 40, 2]


def test_a_constant_rate_is_sampled_as_the_reference_does(tmp_path: Path) -> None:
    """A header that states another rate than the time stamps changes nothing."""
    film = load_video(write_film(tmp_path / "a.mkv", np.arange(100) / 10, scale=20), VISION)
    assert (len(film.frames), film.fps) == (20, pytest.approx(2.0, rel=1e-6))
    np.testing.assert_allclose(seen(film.frames, 20), np.linspace(0, 99, 20).round() / 10, atol=0.07)


def test_broadcasts_that_jump_have_no_pause(tmp_path: Path) -> None:
    """Two recordings laid end to end, as television recorders do: the clock jumps, the film does not."""
    first = write_film(tmp_path / "a.ts", np.arange(40) / 10, sound="mp2", seconds=4.0).read_bytes()
    with av.open(str(tmp_path / "b.ts"), "w") as container, av.open(str(tmp_path / "a.ts")) as source:
        streams = [container.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.size:
                packet.stream, packet.pts = streams[packet.stream_index], packet.pts + round(5000 / packet.time_base)
                packet.dts = packet.pts
                container.mux(packet)
    (tmp_path / "c.ts").write_bytes(first + (tmp_path / "b.ts").read_bytes())
    film = load_video(tmp_path / "c.ts", VISION)
    assert len(film.frames) / film.fps == pytest.approx(8.0, abs=0.5)
    assert film.sound is not None
    assert film.sound.samples.size / RATE == pytest.approx(8.0, abs=0.2)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "flac"), ("a.mkv", "libopus"), ("a.mp4", "aac")])
def test_gaps_are_silence_in_step_with_the_pictures(tmp_path: Path, name: str, codec: str) -> None:
    path = write_film(tmp_path / name, np.arange(80) / 10, sound=codec, seconds=8.0, gaps=[(2.0, 5.0), (6.0, 6.5)])
    for clip in (load_audio(path), load_video(path, VISION).sound):
        assert clip is not None
        assert clip.samples.size / clip.rate == pytest.approx(8.0, abs=0.1)
        heard = loud(clip.samples, clip.rate)
        assert set(heard) <= {*range(21), *range(49, 61), *range(64, 80)}
        assert set(heard) >= {*range(1, 19), *range(51, 59), *range(66, 78)}


def test_rate_and_layout_may_change(tmp_path: Path) -> None:
    parts = []
    for index, (rate, layout) in enumerate(
        [(44_100, "mono"), (48_000, "stereo"), (32_000, "mono"), (44_100, "stereo")]
    ):
        path = tmp_path / f"{index}.mp3"
        with av.open(str(path), "w", options={"write_xing": "0", "id3v2_version": "0"}) as container:
            stream = container.add_stream("libmp3lame", rate=rate, layout=layout)
            channels = 2 if layout == "stereo" else 1
            frame = av.AudioFrame.from_ndarray(
                np.repeat(tone(440, rate, 2.0, 0.4)[None], channels, axis=0), format="fltp", layout=layout
            )
            frame.sample_rate, frame.pts = rate, 0
            for piece in av.AudioResampler(stream.codec_context.format, frame_size=1152).resample(frame):
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    (tmp_path / "all.mp3").write_bytes(b"".join(parts))
    clip = load_audio(tmp_path / "all.mp3")
    assert clip.rate == 44_100
    assert clip.samples.size / clip.rate == pytest.approx(8.0, abs=0.3)
    for start in (0.5, 2.6, 4.7, 6.8):
        part = clip.samples[round(start * 44_100) :][:44_100]
        assert np.abs(np.fft.rfft(part * np.hanning(part.size))).argmax() == pytest.approx(440, abs=1)
        assert np.sqrt((part**2).mean()) == pytest.approx(0.4 / np.sqrt(2), rel=0.06)


@pytest.mark.parametrize(("name", "codec", "format"), [("a.mp3", "libmp3lame", "mp3"), ("a.aac", "aac", "adts")])
def test_guessed_lengths_are_not_believed(tmp_path: Path, name: str, codec: str, format: str) -> None:  # noqa: A002
    """Silence, then noise, at a variable bit rate: FFmpeg's guess from the first frames is far too long."""
    with av.open(
        str(tmp_path / name), "w", format=format, options={"write_xing": "0"} if format == "mp3" else {}
    ) as out:
        stream = out.add_stream(codec, rate=44_100, layout="mono")
        if codec == "libmp3lame":
            stream.codec_context.options = {"compression_level": "9"}
            stream.codec_context.qscale = True
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100 * 2).astype(np.float32)
        samples = np.concatenate([noise, np.zeros(44_100 * 8, np.float32)])
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        for piece in av.AudioResampler(stream.codec_context.format, frame_size=1024).resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    clip = load_audio(tmp_path / name)
    assert clip.samples.size / clip.rate == pytest.approx(10.0, abs=0.2)


def test_a_long_film_is_refused_before_its_frames_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(tmp_path / "a.mkv", np.arange(50) / 10, sound="flac", seconds=5.0)

    def decode(*arguments: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("omni_edge.media.load.decode_frames", decode)
    with pytest.raises(MediaError, match=r"5 s of sound, and 3 s is the most.*--no-audio-in-video"):
        load_video(path, VISION, longest=3.0)
    monkeypatch.undo()
    assert load_video(path, VISION, longest=3.0, sound=False).sound is None


def test_frames_that_are_too_large_are_refused_undecoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_edge.media.video_track.LARGEST_FRAME_PIXELS", 1000)
    with pytest.raises(MediaError, match=r"160 x 120 pixels.*scale="):
        load_video(DATA / "clip.mp4", VISION)


def test_a_film_falls_back_on_the_track_that_holds_sound(tmp_path: Path) -> None:
    """An empty default track beside one with sound."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.add_stream("flac", rate=RATE, layout="mono").disposition = av.stream.Disposition.default.value
        full = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(440, RATE, 1.0, 0.4)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for piece in av.AudioResampler(full.codec_context.format, frame_size=1024).resample(frame):
            container.mux(full.encode(piece))
        container.mux(full.encode(None))
    assert load_audio(path).samples.size / RATE == pytest.approx(1.0, abs=0.05)


class Turned:
    """A frame with a display matrix."""

    def __init__(self, a: int, b: int, c: int, d: int) -> None:
        one = 1 << 16
        self.side_data = {"DISPLAYMATRIX": struct.pack("=9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)}


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),  # a telephone held upright: a quarter turn clockwise
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),  # a front camera
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda x: x.transpose(1, 0, 2)[::-1, ::-1]),
    ],
)
def test_every_display_matrix(matrix: tuple[int, int, int, int], wanted: Any) -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(_upright(picture, Turned(*matrix)), wanted(picture))


@pytest.mark.parametrize("tags", ["Café", "日本"])
def test_tags_in_other_encodings_are_passed_over(tmp_path: Path, tags: str) -> None:
    body = tags.encode("latin-1" if tags.isascii() or tags == "Café" else "shift-jis")
    frame = b"TIT2" + struct.pack(">IH", len(body) + 1, 0) + b"\0" + body
    tag = b"ID3\x03\0\0" + bytes([0, 0, 0, len(frame)]) + frame
    data = (DATA / "question.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(tag + data)
    wave = (DATA / "question.wav").read_bytes()
    text = b"INFOINAM" + struct.pack("<I", len(body) + len(body) % 2) + body.ljust(len(body) + len(body) % 2, b"\0")
    (tmp_path / "a.wav").write_bytes(wave + b"LIST" + struct.pack("<I", len(text)) + text)
    assert load_audio(tmp_path / "a.mp3").samples.size > 30_000
    assert load_audio(tmp_path / "a.wav").samples.size == load_audio(DATA / "question.wav").samples.size


@pytest.mark.parametrize("name", ["question.mp3", "question.ogg", "question.flac"])
def test_a_damaged_packet_does_not_cost_the_file(tmp_path: Path, name: str) -> None:
    """Players pass over a damaged packet; so do we, unless many are."""
    data = bytearray((DATA / name).read_bytes())
    whole = load_audio(DATA / name)
    place = len(data) // 2
    data[place : place + 24] = bytes(24)
    (tmp_path / name).write_bytes(data)
    if name == "question.ogg":
        # Its pages are long: one is a third of this file.
        with pytest.raises(MediaError, match="cut off"):
            load_audio(tmp_path / name)
        return
    assert load_audio(tmp_path / name).samples.size == pytest.approx(whole.samples.size, rel=0.1)
