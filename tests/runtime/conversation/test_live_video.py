"""Live videos: camera frames between the pieces of a live sound are laid out as a recorded clip is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from omni_edge import (
    AudioClip,
    CameraFrame,
    MediaError,
    OmniEdge,
    PcmBlock,
    Sampling,
    Session,
    SessionSettings,
    UsageError,
    VideoClip,
)
from support.turns import RATE, answer, hum, waves


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[OmniEdge]:
    """Without compiled operators: their INT8 activations make the tokens depend on how positions are batched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNI_EDGE_KERNELS", "0")
        yield OmniEdge.load(bundle, threads=1)


TOKENS = 12
GREEDY = Sampling(temperature=0)
PIECE = RATE // 50


def session(engine: OmniEdge, fps: int) -> Session:
    return engine.session(seed=4, sampling=GREEDY, talker_sampling=GREEDY, camera_fps=fps)


def film(count: int) -> np.ndarray:
    """Moving waves, uint8 [count, 56, 84, 3]."""
    return np.stack([waves(56, 84 + 20 * step)[:, 20 * step :] for step in range(count)])


def live(frames: np.ndarray, fps: float, samples: np.ndarray) -> Iterator[CameraFrame | PcmBlock]:
    """What a camera and a microphone give, in pieces of 20 ms."""
    for start in range(0, samples.size, PIECE):
        if start * fps % RATE == 0 and start * fps // RATE < len(frames):
            yield CameraFrame(frames[int(start * fps) // RATE])
        yield PcmBlock(samples[start : start + PIECE], RATE)


@pytest.mark.parametrize(("fps", "seconds"), [(1, 5.3), (2, 4.0), (2, 2.3), (1, 0.7)])
def test_it_equals_the_recorded_clip(engine: OmniEdge, fps: int, seconds: float) -> None:
    samples, frames = hum(seconds), film(int(np.ceil(seconds * fps)))
    seen, recorded = session(engine, fps), session(engine, fps)
    recorded.push(VideoClip(frames, fps, AudioClip(samples, RATE)))
    for item in live(frames, fps, samples):
        seen.push(item)
    for turn in range(2):
        (expected, _), (actual, _) = answer(recorded, TOKENS), answer(seen, TOKENS)
        assert actual.prompt_tokens == expected.prompt_tokens
        assert actual.token_ids == expected.token_ids
        assert actual.codec_tokens == expected.codec_tokens
        for each in (seen, recorded):
            each.push(f"And then? {turn}")
    np.testing.assert_array_equal(seen._context.tokens, recorded._context.tokens)


def test_a_reply_in_the_middle_leaves_no_trace(engine: OmniEdge) -> None:
    samples, frames = hum(4.6), film(5)
    plain, speculated = session(engine, 1), session(engine, 1)
    for number, item in enumerate(live(frames, 1, samples)):
        plain.push(item)
        speculated.push(item)
        if number in (40, 160):
            snapshot = speculated.snapshot()
            answer(speculated, 3)
            speculated.restore(snapshot)
    (expected, _), (actual, _) = answer(plain, TOKENS), answer(speculated, TOKENS)
    assert (actual.prompt_tokens, actual.token_ids) == (expected.prompt_tokens, expected.token_ids)


def test_the_frame_that_is_visible_at_a_moment_counts(engine: OmniEdge) -> None:
    """A camera at an uneven pace, the first frame late and the sizes not the same."""
    first, second, third = film(3)
    seen, recorded = session(engine, 1), session(engine, 1)
    times = {0.3: first, 0.6: second, 1.5: np.repeat(np.repeat(third, 2, 0), 2, 1)}
    samples = hum(3)
    for start in range(0, samples.size, PIECE):
        if (frame := times.get(start / RATE)) is not None:
            seen.push(CameraFrame(frame))
        seen.push(PcmBlock(samples[start : start + PIECE], RATE))
    recorded.push(VideoClip(np.stack([first, second, third]), 1, AudioClip(samples, RATE)))
    assert answer(seen, TOKENS)[0].token_ids == answer(recorded, TOKENS)[0].token_ids


def test_a_camera_that_is_switched_on_late_begins_a_video(engine: OmniEdge) -> None:
    samples, frames = hum(4.4), film(2)
    seen, other = session(engine, 1), session(engine, 1)
    at = int(2.5 * RATE)
    seen.push(PcmBlock(samples[:at], RATE))
    for frame, part in zip(frames, (samples[at : at + RATE], samples[at + RATE :]), strict=True):
        seen.push(CameraFrame(frame))
        seen.push(PcmBlock(part, RATE))
    other.push(PcmBlock(samples[:at], RATE, end=True))
    other.push(VideoClip(frames, 1, AudioClip(samples[at:], RATE)))
    (expected, _), (actual, _) = answer(other, TOKENS), answer(seen, TOKENS)
    assert (actual.prompt_tokens, actual.token_ids) == (expected.prompt_tokens, expected.token_ids)


def test_a_minute_of_talking_and_showing_fits_the_default_context(engine: OmniEdge) -> None:
    one = engine.session(camera_fps=1, speech=False)
    frame = np.zeros((480, 640, 3), np.uint8)
    one.push(CameraFrame(frame))
    one.push(PcmBlock(hum(2.1), RATE))
    used = one.offset
    one.push(CameraFrame(frame))
    one.push(PcmBlock(hum(2), RATE))
    chunk = one.offset - used
    # 50 positions of sound, and one temporal patch of 13 x 10.
    assert chunk == 180
    assert used + 29 * chunk < 0.75 * one.capacity


def test_frames_without_sound_and_other_rates(engine: OmniEdge) -> None:
    one = session(engine, 1)
    one.push(CameraFrame(film(1)[0]))
    one.push("Hello.")
    other = session(engine, 1)
    other.push("Hello.")
    assert answer(one, TOKENS)[0].token_ids == answer(other, TOKENS)[0].token_ids
    with pytest.raises(MediaError, match="uint8"):
        one.push(CameraFrame(np.zeros((4, 4), np.uint8)))
    with pytest.raises(UsageError, match="3 frames per second; choose 1 or 2"):
        SessionSettings(camera_fps=3)
