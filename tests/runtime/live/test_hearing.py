"""One microphone: what belongs to a turn, in whatever pieces the sound arrives."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.errors import MediaError
from omni_edge.live.hearing import EchoGate, Heard, Hearing
from omni_edge.live.settings import TurnSettings
from omni_edge.live.turn_detector import Transition
from omni_edge.live.voice_detector import FRAME_SAMPLES, VOICE_RATE
from support.spoken import LoudnessDetector, silence


def tone(seconds: float) -> NDArray[np.float32]:
    return (0.3 * np.sin(np.arange(round(seconds * VOICE_RATE)) / 5)).astype(np.float32)


def hear(hearing: Hearing, samples: NDArray[np.float32], piece: int, rate: int = VOICE_RATE) -> list[Heard]:
    pieces = [samples[start : start + piece] for start in range(0, len(samples), piece)]
    return [heard for each in pieces for heard in hearing.step(each, rate)]


def names(heard: list[Heard]) -> list[str]:
    return [part.transition.value for part in heard if part.transition]


def sound(heard: list[Heard]) -> NDArray[np.float32]:
    return np.concatenate([part.samples for part in heard])


SPOKEN = np.concatenate([silence(1), tone(1), silence(0.3), tone(0.5), silence(1)])


@pytest.mark.parametrize("piece", [160, 320, 441, 512, 100_000])
def test_a_turn_is_the_same_in_any_pieces(piece: int) -> None:
    hearing = Hearing(LoudnessDetector())
    heard = hear(hearing, SPOKEN, piece)
    assert names(heard) == ["started", "paused", "resumed", "paused", "ended"]
    # From 0.3 s before the first frame of speech to the frame in which 200 ms of silence were complete.
    first = 31 * FRAME_SAMPLES - 4800
    turn = sound(heard)
    last = first + turn.size
    np.testing.assert_array_equal(turn, SPOKEN[first:last])
    assert last == FRAME_SAMPLES * (1 + 7 + int(2.8 * VOICE_RATE - 1) // FRAME_SAMPLES)
    ended = heard[-1]
    assert ended.transition is Transition.ENDED
    assert ended.time == pytest.approx(2.8, abs=0.032)
    assert not hearing.open


def test_the_next_turn_never_repeats_sound_of_the_one_before() -> None:
    settings = TurnSettings(pre_roll=2, speculation=0.2, end_of_turn=0.2)
    hearing = Hearing(LoudnessDetector(), settings)
    spoken = np.concatenate([tone(0.5), silence(0.4), tone(0.5), silence(0.4)])
    heard = hear(hearing, spoken, 320)
    assert names(heard) == ["started", "paused", "ended"] * 2
    np.testing.assert_array_equal(sound(heard), spoken[: sound(heard).size])


def test_an_incomplete_sentence_is_waited_for() -> None:
    asked: list[int] = []

    def complete(samples: NDArray[np.float32]) -> bool:
        asked.append(samples.size)
        return len(asked) > 1

    spoken = np.concatenate([tone(9), silence(2), tone(0.5), silence(0.6)])
    heard = hear(Hearing(LoudnessDetector(), complete=complete), spoken, 320)
    assert names(heard) == ["started", "paused", "resumed", "paused", "ended"]
    assert asked == [8 * VOICE_RATE] * 2
    assert names(hear(Hearing(LoudnessDetector()), spoken, 320))[:3] == ["started", "paused", "ended"]


def test_memory_does_not_grow_with_silence_or_speech() -> None:
    hearing = Hearing(LoudnessDetector())
    for _ in range(20):
        hear(hearing, np.concatenate([silence(5), tone(5)]), 320)
        assert hearing._buffer.size < 1 * VOICE_RATE


def test_other_rates_and_stereo_are_resampled_at_the_door() -> None:
    spoken = np.concatenate([silence(0.5), tone(1), silence(1)])
    wide = resampler(VOICE_RATE, 48_000).step(spoken, ResampleState(), True)
    assert wide is not None
    stereo = np.stack([wide, wide], axis=1)
    heard = hear(Hearing(LoudnessDetector()), stereo, 960, 48_000)
    assert names(heard) == ["started", "paused", "ended"]
    expected = sound(hear(Hearing(LoudnessDetector()), spoken, 320))
    assert sound(heard).size == expected.size
    np.testing.assert_allclose(sound(heard), expected, atol=0.01)
    with pytest.raises(MediaError, match="integer from 1000"):
        Hearing(LoudnessDetector()).step(spoken, 0)


def test_push_to_talk_takes_what_is_said_while_the_key_is_down() -> None:
    hearing = Hearing(None)
    spoken = tone(1)
    assert hearing.step(spoken[:1000], VOICE_RATE) == []
    heard = hearing.begin()
    assert hearing.begin() == []
    heard += hearing.step(spoken[1000:5000], VOICE_RATE)
    heard += hearing.end()
    assert hearing.end() == hearing.step(spoken[5000:], VOICE_RATE) == []
    assert names(heard) == ["started", "ended"]
    np.testing.assert_array_equal(sound(heard), spoken[1000:5000])


def test_a_microphone_that_ends_ends_the_turn() -> None:
    hearing = Hearing(LoudnessDetector())
    spoken = tone(0.5)
    heard = [*hear(hearing, spoken, 320), *hearing.end()]
    assert names(heard) == ["started", "ended"]
    np.testing.assert_array_equal(sound(heard), spoken)


def test_the_gate_is_closed_while_playing_and_until_the_echo_is_gone() -> None:
    gate = EchoGate(0.25)
    assert not gate.muted(0.02, playing=False)
    assert gate.muted(0.02, playing=True)
    assert [gate.muted(0.02, playing=False) for _ in range(14)] == [True] * 13 + [False]
