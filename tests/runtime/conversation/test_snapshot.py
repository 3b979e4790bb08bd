"""Replies computed in advance: after going back, a conversation continues as one in which they never happened."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from omni_edge import Event, OmniEdge, PcmBlock, Sampling, Session, TurnDone, UsageError
from support.spoken import question
from support.turns import RATE, answer

TOKENS = 12
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    """A question of 4.8 s: two whole blocks of the audio encoder and a part of a third."""
    return np.concatenate([question()] * 3)


def session(engine: OmniEdge) -> Session:
    return engine.session(seed=4, sampling=GREEDY, talker_sampling=GREEDY)


def speak(session: Session, samples: np.ndarray) -> None:
    for start in range(0, samples.size, 320):
        session.push(PcmBlock(samples[start : start + 320], RATE))


@pytest.mark.parametrize(("cut", "replied"), [(0.5, "whole"), (1.9, "text"), (2.1, "begun"), (4.1, "whole")])
def test_a_reply_in_the_middle_of_a_sound_leaves_no_trace(
    engine: OmniEdge, spoken: np.ndarray, cut: float, replied: str
) -> None:
    plain, speculated = session(engine), session(engine)
    for each in (plain, speculated):
        each.push("Hello.")
        answer(each, 3)
    at = int(cut * RATE)
    speak(speculated, spoken[:at])
    for _ in range(2):
        snapshot = speculated.snapshot()
        offset = speculated.offset
        events: Iterator[Event] = speculated.reply(max_new_tokens=TOKENS, max_codec_tokens=30)
        if replied == "text":
            next(events)
        elif replied == "whole":
            assert isinstance(list(events)[-1], TurnDone)
        assert speculated.offset > offset
        speculated.restore(snapshot)
        assert speculated.offset == offset
        # The iterator is still held, and must not write into the conversation any more.
        assert [type(event) for event in events] in ([], [TurnDone])
        assert speculated.offset == offset
    speak(speculated, spoken[at:])
    speak(plain, spoken)
    for turn in range(2):
        (expected, samples), (actual, again) = answer(plain, TOKENS), answer(speculated, TOKENS)
        assert actual.token_ids == expected.token_ids
        assert actual.codec_tokens == expected.codec_tokens
        assert actual.prompt_tokens == expected.prompt_tokens
        np.testing.assert_array_equal(again, samples)
        for each in (plain, speculated):
            each.push(f"And then? {turn}")


def test_a_snapshot_in_a_later_turn_and_one_of_the_start(engine: OmniEdge, spoken: np.ndarray) -> None:
    one = session(engine)
    start = one.snapshot()
    speak(one, spoken)
    first, _ = answer(one, TOKENS)
    one.restore(start)
    assert one.offset == 0
    with pytest.raises(UsageError, match="nothing to answer"):
        one.reply()
    speak(one, spoken)
    again, _ = answer(one, TOKENS)
    assert again.token_ids == first.token_ids


def test_a_place_that_was_cut_is_refused(engine: OmniEdge) -> None:
    one = session(engine)
    one.push("Hello.")
    done, _ = answer(one, 5)
    behind = one.snapshot()
    one.trim(done.prompt_tokens + 1)
    with pytest.raises(UsageError, match="was cut from the conversation"):
        one.restore(behind)
