"""Conversations that are longer than their context: the oldest turns leave, and the rest continues as if alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omni_edge import (
    CameraFrame,
    ContextUse,
    Duplex,
    Hearing,
    ImageFrame,
    OmniEdge,
    PcmBlock,
    Sampling,
    Session,
    TurnCut,
    TurnDone,
    TurnsEvicted,
)
from support.spoken import LoudnessDetector, question, silence
from support.turns import RATE, answer, hum, waves

GREEDY = Sampling(temperature=0)
TURNS: list[list[Any]] = [
    ["Hello."],
    [ImageFrame(waves(60, 84)), "What is it?"],
    [PcmBlock(hum(2.5), RATE, end=True)],
    [CameraFrame(waves(56, 84)), PcmBlock(hum(2.5), RATE, end=True)],
    [ImageFrame(waves(84, 56)), "And that?"],
]


def session(engine: OmniEdge, **settings: Any) -> Session:
    return engine.session(seed=4, sampling=GREEDY, talker_sampling=GREEDY, **settings)


def push(one: Session, turn: list[Any]) -> None:
    for item in turn:
        one.push(item)


def alone(engine: OmniEdge, turns: list[list[Any]], replies: list[tuple[int, ...]]) -> Session:
    """A conversation that only ever had these turns and replies."""
    one = session(engine)
    for turn, tokens in zip(turns, replies, strict=True):
        push(one, turn)
        one.reply()
        for token in tokens:
            one._context.append(token)
            one._context.prefill()
    return one


@pytest.mark.parametrize("in_the_middle", [False, True])
def test_what_stays_continues_as_a_conversation_that_had_nothing_else(
    exact_engine: OmniEdge, in_the_middle: bool
) -> None:
    long = session(exact_engine)
    long.keep_media()
    ends, replies = [], []
    for turn in TURNS:
        push(long, turn)
        done, _ = answer(long, 4)
        replies.append(tuple(t for t in done.token_ids if t not in exact_engine.manifest.text.eos_tokens))
        ends.append(long.offset)
    begun = [CameraFrame(waves(84, 56)), PcmBlock(hum(2.5), RATE)]
    if in_the_middle:
        push(long, begun)
    used = long.offset
    eviction = long.evict(keep=long._turn_starts()[0] + used - ends[1], last=used)
    assert eviction is not None
    assert eviction.turns == 2
    assert long.offset == used - eviction.positions < long.capacity
    while long.refilling:
        long.refill(7)
    other = alone(exact_engine, TURNS[2:], replies[2:])
    if in_the_middle:
        push(other, begun)
    for rest in ([PcmBlock(hum(1), RATE, end=True)], ["Then?"]):
        for each in (long, other):
            push(each, rest)
        (expected, _), (actual, _) = answer(other, 8), answer(long, 8)
        assert actual.prompt_tokens == expected.prompt_tokens
        assert actual.token_ids == expected.token_ids
        assert actual.codec_tokens == expected.codec_tokens


def test_turns_whose_media_were_not_kept_leave_and_all_may_leave(engine: OmniEdge) -> None:
    one = session(engine, speech=False)
    push(one, TURNS[1])
    answer(one, 2)
    one.keep_media()
    push(one, TURNS[0])
    answer(one, 2)
    assert one.evict(keep=one.capacity, last=one.capacity).turns == 1  # type: ignore[union-attr]
    assert one.evict(keep=0, last=0).turns == 1  # type: ignore[union-attr]
    fresh = session(engine, speech=False)
    for each in (one, fresh):
        push(each, TURNS[0])
    (actual, _), (expected, _) = answer(one, 8), answer(fresh, 8)
    assert (actual.prompt_tokens, actual.token_ids) == (expected.prompt_tokens, expected.token_ids)


def test_forty_turns_in_a_small_context(engine: OmniEdge) -> None:
    one = session(engine, speech=False, context=512)
    duplex = Duplex(one, Hearing(LoudnessDetector()), max_new_tokens=4)
    spoken = np.concatenate([question(), silence(0.8)])
    events: list[Any] = []
    for turn in range(40):
        if turn % 4:
            duplex.ask(f"Number {turn}: how much is three plus {turn}?")
        else:
            duplex.push(PcmBlock(spoken, RATE))
        events += duplex.events(wait=False)
    done = [event for event in events if isinstance(event, TurnDone)]
    assert len(done) == 40
    assert {event.finish_reason for event in done} <= {"stop", "length"}
    evicted = [event for event in events if isinstance(event, TurnsEvicted)]
    assert len(evicted) > 3
    assert sum(event.turns for event in evicted) > 20
    assert max(event.used for event in events if isinstance(event, ContextUse)) <= 512
    # What stayed was prefilled between the turns.
    assert not one.refilling


def test_a_turn_that_fills_the_context_alone_is_cut_and_answered(engine: OmniEdge) -> None:
    one = session(engine, speech=False, context=512)
    duplex = Duplex(one, Hearing(LoudnessDetector()), max_new_tokens=4)
    duplex.ask("Hello.")
    events = list(duplex.events(wait=False))
    for _ in range(12):
        duplex.push(PcmBlock(hum(2), RATE))
        events += duplex.events(wait=False)
    duplex.push(PcmBlock(silence(1), RATE))
    events += duplex.events(wait=False)
    assert [type(event) for event in events if isinstance(event, TurnDone | TurnsEvicted | TurnCut)] == [
        TurnDone,
        TurnsEvicted,
        TurnCut,
        TurnDone,
        # More than three quarters of the context: the next turn needs them.
        TurnsEvicted,
    ]
    assert one.offset <= one.capacity
