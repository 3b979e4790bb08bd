"""Turns from probabilities: each rule of `TurnSettings` at its limit, in frames of 20 ms."""

from __future__ import annotations

import pytest

from omni_edge.errors import UsageError
from omni_edge.live.settings import TurnSettings
from omni_edge.live.turn_detector import TurnDetector, TurnState

FRAME = 0.02
DETECTOR = TurnDetector(TurnSettings(), FRAME)


def transitions(pattern: str, *, playing: bool = False, state: TurnState | None = None) -> list[tuple[int, str]]:
    """(frame, transition) of a pattern such as "s25 q10": 25 frames of speech, 10 quiet ones, u: unsure (0.4)."""
    state = state if state is not None else TurnState()
    found = []
    for part in pattern.split():
        probability = {"s": 0.9, "u": 0.4, "q": 0.01}[part[0]]
        for _ in range(int(part[1:])):
            transition = DETECTOR.step(probability, state, playing)
            if transition is not None:
                found.append((state.frames - 1, transition.value))
    return found


def test_a_turn_starts_after_the_onset_and_ends_after_the_silence() -> None:
    state = TurnState()
    assert transitions("q5 s50 q40", state=state) == [(14, "started"), (64, "paused"), (79, "ended")]
    assert (state.started, state.last_speech, state.open) == (5, 54, False)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_a_noise_shorter_than_the_onset_is_nothing(frames: int) -> None:
    assert transitions(f"q5 s{frames} q60") == []
    assert transitions(f"q5 s{frames} q6 s{frames} q60") == []


def test_a_dip_between_syllables_does_not_end_a_run() -> None:
    assert transitions("s5 q5 s5 q3") == [(14, "started")]
    assert transitions("s5 q6 s5 q3") == []


def test_an_unsure_frame_is_speech_only_behind_speech() -> None:
    assert transitions("u50") == []
    assert transitions("s1 u9") == [(9, "started")]
    assert transitions("s20 u50") == [(9, "started")]


def test_speech_in_a_pause_continues_the_turn() -> None:
    expected = [(9, "started"), (29, "paused"), (49, "resumed"), (59, "paused"), (74, "ended")]
    assert transitions("s20 q20 s10 q40") == expected


def test_a_turn_does_not_end_while_speech_begins_again() -> None:
    # Silence of 500 ms is over at frame 44, in the middle of the new run.
    assert transitions("s20 q21 s10") == [(9, "started"), (29, "paused"), (50, "resumed")]
    # The run was a short noise: the turn ends when that is certain.
    assert transitions("s20 q21 s5 q10") == [(9, "started"), (29, "paused"), (51, "ended")]


def test_an_incomplete_sentence_waits_longer() -> None:
    state = TurnState()
    assert transitions("s20 q20", state=state) == [(9, "started"), (29, "paused")]
    state.incomplete = True
    assert transitions("q200", state=state) == [(169, "ended")]
    assert not state.incomplete


@pytest.mark.parametrize("frames", [10, 24])
def test_less_than_an_interruption_is_nothing_while_a_reply_is_played(frames: int) -> None:
    assert transitions(f"q5 s{frames} q60", playing=True) == []
    assert transitions("q5 s25 q10", playing=True) == [(29, "started"), (39, "paused")]


def test_speech_that_began_during_the_reply_is_a_turn_when_the_reply_is_over() -> None:
    state = TurnState()
    assert transitions("s15", playing=True, state=state) == []
    assert transitions("s1", state=state) == [(15, "started")]
    assert state.started == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 1.5}, r"threshold is 1.5; it must be from 0 to 1\."),
        ({"onset": -0.1}, r"onset is -0.1; it must be from 0 to 60\."),
        ({"onset": 0.6}, "onset is 0.6 and interruption 0.5; onset must not be the larger one"),
        ({"speculation": 0.7}, "speculation is 0.7 and end_of_turn 0.5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TurnSettings(**wrong)
