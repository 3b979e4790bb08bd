"""Small files that real programs wrote or real people have (see tests/data/README.md), with their right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.errors import MediaError
from omni_edge.events import AudioClip
from omni_edge.media import load_audio, load_image, load_video
from support.perception import VISION

FAULTS = Path(__file__).parents[2] / "data" / "faults"


def hertz(clip: AudioClip, start: float, end: float) -> float:
    """The loudest frequency between two times; 0 for silence."""
    part = clip.samples[round(start * clip.rate) : round(end * clip.rate)]
    if np.abs(part).max() < 1e-3:
        return 0.0
    spectrum = np.abs(np.fft.rfft(part * np.hanning(part.size)))
    return float(spectrum.argmax() * clip.rate / part.size)


def test_a_wav_that_was_written_to_a_pipe() -> None:
    clip = load_audio(FAULTS / "espeak_stdout.wav")
    assert (clip.samples.size, clip.rate) == (33092, 22050)


def test_a_rate_that_changes_keeps_one_speed() -> None:
    clip = load_audio(FAULTS / "rate_change.mp3")
    assert clip.samples.size / clip.rate == pytest.approx(4.08, abs=0.01)
    assert hertz(clip, 0.2, 1.8) == pytest.approx(440, abs=1)
    assert hertz(clip, 2.2, 3.8) == pytest.approx(440, abs=1)


def test_a_gap_in_the_time_stamps_is_silence() -> None:
    clip = load_audio(FAULTS / "gap.m4a")
    assert clip.samples.size / clip.rate == pytest.approx(10.0, abs=0.03)
    tones = [hertz(clip, start, start + 0.9) for start in (0.5, 2.1, 3.0, 4.0, 5.0, 6.1, 9.0)]
    assert tones == pytest.approx([440, 0, 0, 0, 0, 440, 440], abs=2)


def test_pauses_of_a_telephone_are_silence() -> None:
    clip = load_audio(FAULTS / "amr_dtx.amr")
    assert (clip.samples.size, clip.rate) == (278 * 160, 8000)
    loud = np.sqrt((clip.samples[: 55 * 800].reshape(55, 800) ** 2).mean(axis=1)) > 0.02
    assert np.flatnonzero(loud).tolist() == list(range(42, 54))


def test_the_default_track_is_heard() -> None:
    assert hertz(load_audio(FAULTS / "two_tracks.mkv"), 0.5, 2.5) == pytest.approx(2000, abs=2)
    sound = load_video(FAULTS / "two_tracks.mkv", VISION).sound
    assert sound is not None
    assert hertz(sound, 0.5, 2.5) == pytest.approx(2000, abs=2)


def test_an_empty_sound_track_is_no_sound() -> None:
    film = load_video(FAULTS / "empty_track.mkv", VISION)
    assert film.sound is None
    assert (len(film.frames), film.fps) == (6, 2.0)
    with pytest.raises(MediaError, match="without a single sample"):
        load_audio(FAULTS / "empty_track.mkv")


def decoded_at(path: Path, times: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame that is visible at each time, as PyAV decodes it, in the model's size."""
    import av

    from omni_edge.vision.resize import resize

    with av.open(str(path)) as container:
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    stamps = np.array([time for time, _ in decoded])
    return np.stack([resize(decoded[np.flatnonzero(stamps <= time + 1e-3)[-1]][1], *size) for time in times])


@pytest.mark.parametrize("name", ["vfr.avi", "vfr.webm"])
def test_a_variable_rate_is_sampled_by_time(name: str) -> None:
    """100 frames in the first 4 s, then one a second until 20 s: by number, 33 of 38 would come from the first 4 s."""
    film = load_video(FAULTS / name, VISION)
    assert (len(film.frames), film.fps) == (40, pytest.approx(2.0))
    wanted = decoded_at(FAULTS / name, np.arange(40) / 2, film.frames.shape[1:3])
    np.testing.assert_array_equal(film.frames, wanted)
    late = decoded_at(FAULTS / name, np.arange(8, 40) / 2, film.frames.shape[1:3])
    np.testing.assert_array_equal(film.frames[8:], late)


def test_sound_after_a_gap_is_in_step_with_its_pictures() -> None:
    film = load_video(FAULTS / "gap_video.webm", VISION)
    assert film.sound is not None
    assert len(film.frames) / film.fps == pytest.approx(10.0)
    assert film.sound.samples.size / film.sound.rate == pytest.approx(10.0, abs=0.03)
    tones = [hertz(film.sound, start, start + 0.9) for start in (0.5, 2.1, 3.0, 4.0, 5.0, 6.1, 9.0)]
    assert tones == pytest.approx([440, 0, 0, 0, 0, 440, 440], abs=2)


def test_a_front_camera_is_not_upside_down() -> None:
    frame = load_video(FAULTS / "hflip.mp4", VISION).frames[0].astype(int)
    red = (frame[..., 0] > 200) & (frame[..., 1] < 60)
    rows, columns = np.nonzero(red)
    assert rows.size > 100
    assert rows.max() < frame.shape[0] / 2
    assert columns.min() > frame.shape[1] / 2


def test_a_transparent_photograph_is_turned() -> None:
    assert load_image(FAULTS / "exif6_alpha.png").pixels.shape == (200, 120, 3)


def test_transparency_of_a_tiff_is_applied_once() -> None:
    pixel = load_image(FAULTS / "alpha.tiff").pixels[10, 50].astype(int)
    # Exactly 246.2, 198.5, 198.5; the decoder rounds once more.
    assert np.abs(pixel - [246, 198, 198]).max() <= 1
