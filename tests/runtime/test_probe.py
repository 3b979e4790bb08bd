"""Measuring decoding with a model that ends its replies early."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from omni_edge import TextDelta, TurnDone, UsageError
from omni_edge.bench.decoders import ThinkerProbe


class Talk:
    """A session whose replies have `length` tokens at most, the one that closes them not counted."""

    def __init__(self, length: int, capacity: int) -> None:
        self.length, self.capacity = length, capacity
        self.offset = self.resets = self.replies = 0

    def reset(self) -> None:
        self.offset = 0
        self.resets += 1

    def push(self, text: str) -> None:
        self.offset += len(text)

    def reply(self, max_new_tokens: int) -> Iterator[Any]:
        self.replies += 1
        prompt = self.offset
        for token in range(min(self.length, max_new_tokens)):
            self.offset += 1
            assert self.offset <= self.capacity
            yield TextDelta("a", (token,))
        yield TurnDone("", (), (), prompt, "stop")


def probe(length: int, capacity: int) -> tuple[ThinkerProbe, list[Talk]]:
    """A probe of a model whose text tokens are characters, and the sessions that it has begun."""
    talks: list[Talk] = []

    def session(context: int, **_: object) -> Talk:
        talks.append(Talk(length, context))
        return talks[-1]

    manifest = SimpleNamespace(thinker=SimpleNamespace(max_positions=100_000))
    engine: Any = SimpleNamespace(
        manifest=manifest, session=session, model=SimpleNamespace(tokenizer=SimpleNamespace(encode=list))
    )
    return ThinkerProbe(engine, capacity), talks


def test_short_replies_add_up_to_the_steps_that_were_asked_for() -> None:
    measured, talks = probe(7, 1000)
    spans = measured.decode(128, 16)
    # Six steps behind the first token, six, then four.
    assert len(spans) == talks[-1].replies == 3
    assert all(began <= ended for began, ended in spans)
    assert len(probe(100, 1000)[0].decode(128, 16)) == 1


def test_a_conversation_that_is_full_begins_anew() -> None:
    measured, talks = probe(2, 1200)
    for _ in range(20):
        measured.decode(900, 16)
    assert 1 < talks[-1].resets < 20


def test_a_model_that_says_nothing_cannot_be_measured() -> None:
    for length in (0, 1):
        with pytest.raises(UsageError, match="ends its replies at once behind 128 positions"):
            probe(length, 1000)[0].decode(128, 16)
    assert probe(0, 1000)[0].prefill(64) >= 0
