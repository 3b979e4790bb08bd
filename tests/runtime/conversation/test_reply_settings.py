"""Replies that are given: spoken as they stand, pushed as history, or ended by a text."""

from __future__ import annotations

import pytest

from omni_edge import OmniEdge, Sampling, Session, TextDelta, UsageError
from omni_edge.conversation.settings import ReplySettings
from omni_edge.conversation.stop_strings import StopStrings

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def nano() -> OmniEdge:
    return OmniEdge.load(threads=1)


def answer(session: Session, question: str, settings: ReplySettings | None = None) -> str:
    session.push(question)
    events = list(session.reply(settings=settings))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == events[-1].text
    return events[-1].text


def test_a_reply_that_was_pushed_equals_one_that_was_written(nano: OmniEdge) -> None:
    written, pushed = (nano.session(speech=False, sampling=GREEDY) for _ in range(2))
    first = answer(written, "turn on the kitchen light")
    pushed.push("turn on the kitchen light")
    pushed.push_reply(first)
    assert answer(pushed, "turn it off") == answer(written, "turn it off") == "The kitchen light is off."
    assert pushed.offset == written.offset
    assert not pushed.turn_open


def test_a_conversation_may_begin_with_a_reply(nano: OmniEdge) -> None:
    session = nano.session(speech=False, sampling=GREEDY)
    session.push_reply("Hello.")
    session.push_reply("How can I help?")
    with pytest.raises(UsageError, match="nothing to answer"):
        session.reply()
    assert answer(session, "turn on the kitchen light")


def test_a_reply_in_text_only_leaves_the_speech_of_the_next_one(nano: OmniEdge) -> None:
    session = nano.session(sampling=GREEDY, seed=2)
    session.push("turn on the kitchen light")
    assert list(session.reply(settings=ReplySettings(speech=False)))[-1].codec_tokens == ()
    session.push("turn it off")
    assert list(session.reply())[-1].codec_tokens


def test_sampling_and_seed_of_one_reply(nano: OmniEdge) -> None:
    texts = set()
    for seed in (1, 2, 3, 1):
        session = nano.session(speech=False, seed=9, sampling=GREEDY)
        texts.add(
            (
                seed,
                answer(
                    session,
                    "who are you",
                    ReplySettings(sampling=Sampling(temperature=3.0, top_k=0, top_p=1.0), seed=seed),
                ),
            )
        )
    assert len(texts) == 3
    assert len({text for _, text in texts}) == 3


@pytest.mark.parametrize(
    ("pieces", "stops", "passed", "found"),
    [
        (["one two", " three"], [" two"], "one", True),
        (["one t", "wo three"], ["two"], "one ", True),
        (["one t", "en"], ["two"], "one ten", False),
        (["aab", "aac"], ["aabaac", "b"], "aa", True),
        (["ab", "ab"], ["abc"], "abab", False),
        (["x"], [], "x", False),
    ],
)
def test_stop_texts(pieces: list[str], stops: list[str], passed: str, found: bool) -> None:
    stop = StopStrings(stops)
    text = "".join(stop.push(piece) for piece in pieces) + stop.close("")
    assert (text, stop.text, stop.found) == (passed, passed, found)
