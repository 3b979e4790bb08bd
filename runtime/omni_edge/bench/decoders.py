"""The Thinker and the Talker: prefill and decode rates, and how much of a step is not spent in the graphs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from omni_edge.bench.figures import Figure, Subject
from omni_edge.conversation.session import Session
from omni_edge.decoders.thinker import ThinkerStates
from omni_edge.decoders.tmrope import Positions
from omni_edge.engine import OmniEdge
from omni_edge.errors import UsageError
from omni_edge.events import Event, TextDelta, TurnDone

_SEED = 0
# Positions that a turn takes beside its tokens, at most: what a conversation grows by from one measurement to the next.
_TURN = 64
# Replies of one measurement that may end before their second token.
_EMPTY_REPLIES = 8
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class ThinkerProbe:
    """Prefill and decode at the public API of a session: sampling, text and Python included.

    A context of up to `refilled` positions is filled again for every measurement; in a longer one the conversation
    goes on, and grows by a turn each time.

    Args:
        engine: the loaded bundle.
        capacity: positions that the longest conversation needs.
    """

    refilled = 512

    def __init__(self, engine: OmniEdge, capacity: int) -> None:
        self._engine = engine
        self._capacity = min(capacity, engine.manifest.thinker.max_positions)
        self._fresh = self._session()
        self._filled: dict[int, Session] = {}
        self._fresh.push("a")
        done = next(event for event in self._fresh.reply(max_new_tokens=1) if isinstance(event, TurnDone))
        self._marks = done.prompt_tokens - 1

    def prefill(self, tokens: int) -> float:
        """Seconds to the first token of a reply to a prompt of exactly `tokens` positions, the turn's marks counted.

        Raises:
            UsageError: there is no such prompt.
        """
        self._fresh.reset()
        self._fresh.push(self._text(tokens))
        began = time.perf_counter()
        _next_token(self._fresh.reply(max_new_tokens=1))
        return time.perf_counter() - began

    def decode(self, context: int, steps: int) -> list[tuple[float, float]]:
        """`steps` steps of replies behind `context` positions: when they began and ended, `time.perf_counter`.

        One span, unless the model ends its replies earlier: then the conversation goes on until there were enough.

        Raises:
            UsageError: there is no such prompt, or the model ends its replies with their first token.
        """
        session = self._filled.get(context)
        if session is None or context <= self.refilled:
            session = self._filled[context] = session or self._session()
            self._fill(session, context)
        else:
            self._continue(session, context, steps)
        spans: list[tuple[float, float]] = []
        done = empty = 0
        while True:
            events = session.reply(max_new_tokens=steps - done + 1)
            _next_token(events)
            began = ended = time.perf_counter()
            before = done
            for event in events:
                if isinstance(event, TextDelta) and event.token_ids:
                    ended = time.perf_counter()
                    done += 1
            spans.append((began, ended))
            if done == steps:
                return spans
            empty += done == before
            if empty > _EMPTY_REPLIES:
                raise UsageError(
                    f"The model ends its replies at once behind {context} positions: no rate of decoding can be "
                    "measured there. Choose another context with --at, or leave the stage thinker out."
                )
            self._continue(session, context, steps)

    def _fill(self, session: Session, context: int) -> None:
        session.reset()
        session.push(self._text(context))

    def _continue(self, session: Session, context: int, steps: int) -> None:
        """The next turn; in a full conversation, the first one of a new one."""
        if session.offset + steps + _TURN <= session.capacity:
            session.push("?")
        else:
            self._fill(session, context)

    def _session(self) -> Session:
        return self._engine.session(context=self._capacity, seed=_SEED, speech=False, system="")

    def _text(self, positions: int) -> str:
        """A text that, with its turn's marks, makes `positions` positions."""
        encode, tokens = self._engine.model.tokenizer.encode, positions - self._marks
        text = " ".join(_LETTERS[index % len(_LETTERS)] for index in range(max(tokens, 0)))
        while len(encode(text)) > tokens > 0:
            text = text[:-1]
        if tokens < 1 or len(encode(text)) != tokens:
            raise UsageError(
                f"A prompt of {positions} positions cannot be made: a turn's marks alone take {self._marks}. "
                "Measure a longer one."
            )
        return text


def thinker(subject: Subject) -> Iterator[Figure]:
    """Prefill and decode rates; the share of a decode step that Python and numpy take."""
    settings = subject.settings
    growth = (settings.runs + 2) * (settings.steps + _TURN)
    probe = ThinkerProbe(subject.engine, max(*settings.contexts, *settings.prefills) + growth)
    for tokens in settings.prefills:
        probe.prefill(tokens)
        rates = [tokens / probe.prefill(tokens) for _ in range(settings.runs)]
        yield Figure("thinker", f"prefill {tokens}", "tok/s", tuple(rates))
    for context in settings.contexts:
        probe.decode(context, settings.steps)
        rates, shares = [], []
        for _ in range(settings.runs):
            subject.spans.clear()
            spans = probe.decode(context, settings.steps)
            seconds = sum(ended - began for began, ended in spans)
            rates.append(settings.steps / seconds)
            shares.append(100 * (1 - sum(subject.inside(began, ended) for began, ended in spans) / seconds))
        yield Figure("thinker", f"decode at {context}", "tok/s", tuple(rates))
        yield Figure("thinker", f"outside of graphs at {context}", "%", tuple(shares))


def talker(subject: Subject) -> Iterator[Figure]:
    """Codec tokens per second, sampling included, and prefill; the Thinker's states are noise."""
    engine, settings = subject.engine, subject.settings
    part, sampling = engine.model.talker, engine.manifest.talker_sampling
    assert part is not None
    assert sampling is not None
    random = np.random.default_rng(_SEED)
    for context in settings.contexts:
        states = random.standard_normal((context, part.text_end.size)).astype(np.float32)
        state = part.state(context + settings.steps + 2)
        prompt = Positions()
        block = ThinkerStates(states, prompt.text(context))
        began = time.perf_counter()
        part.prefill(block, state)
        yield Figure("talker", f"prefill {context}", "tok/s", (context / (time.perf_counter() - began),))
        rates = []
        for _ in range(1 + settings.runs):
            utterance = part.begin(
                voice=states[0],
                first=states[-1],
                positions=replace(prompt),
                sampling=sampling,
                seed=(_SEED,),
                state=state,
            )
            began = time.perf_counter()
            for _ in range(settings.steps):
                part.speak(part.text_pad, utterance, state)
            rates.append(settings.steps / (time.perf_counter() - began))
        yield Figure("talker", f"codec tokens at {context}", "tok/s", tuple(rates[1:]))


def _next_token(events: Iterator[Event]) -> None:
    """Runs on to the reply's next token; the one that closes the turn shows as the end of the reply."""
    next(event for event in events if isinstance(event, TurnDone) or (isinstance(event, TextDelta) and event.token_ids))
