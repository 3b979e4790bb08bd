"""This project, through its public API: sessions, text pushed as a user pushes it, sampling with the bundle's defaults.

    python benchmarks/peers/omni.py measure /tmp/b3b          # a bundle, as omni-export writes it

`prefill` is the time to first token of a reply to a prompt of exactly that many positions (the turn's marks counted),
`decode` the wall time between `TextDelta` events: tokenizer, sampling and Python included.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from engine import CAPACITY, main

from omni_edge import Event, OmniEdge, Session, TextDelta, TurnDone, UsageError

# A context up to this long is filled again for every request; in a longer one the conversation goes on, and the context
# grows by about 40 positions each time.
REFILLED = 512
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def build(text_model: Path, model: Path) -> None:
    """Nothing to do with the text model alone."""
    raise UsageError(f"{model} is made from the whole checkpoint ({text_model} is a part): use omni-export.")


class Omni:
    """A loaded bundle, and one session for each context that was asked for."""

    build = "omni-export"

    def __init__(self, bundle: Path, threads: int) -> None:
        self._engine = OmniEdge.load(bundle, threads=threads)
        self._fresh = self._session()
        self._filled: dict[int, Session] = {}
        self._marks = self._count_marks()
        packages = ("omni-edge", "onnxruntime", "numpy")
        self.versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
        self.build = "omni-export, " + self._engine.manifest.graphs["thinker"].precision

    def prefill(self, tokens: int) -> float:
        self._fresh.reset()
        self._fresh.push(self._text(tokens - self._marks))
        began = time.perf_counter()
        _next_text(self._fresh.reply(max_new_tokens=1))
        return time.perf_counter() - began

    def decode(self, context: int, steps: int) -> float:
        session = self._filled.get(context)
        if session is not None and context > REFILLED:
            session.push("?")
        else:
            session = self._filled[context] = session or self._session()
            session.reset()
            session.push(self._text(context - self._marks))
        return self._timed_reply(session, steps)

    def _timed_reply(self, session: Session, steps: int) -> float:
        """Seconds for `steps` tokens after the first; a reply that the model closes early is followed by another."""
        seconds, done = 0.0, 0
        while done < steps:
            events = session.reply(max_new_tokens=steps - done + 1)
            _next_text(events)
            began = last = time.perf_counter()
            for event in events:
                if isinstance(event, TextDelta) and event.token_ids:
                    last = time.perf_counter()
                    done += 1
            seconds += last - began
            if done < steps:
                session.push("?")
        return seconds

    def _session(self) -> Session:
        return self._engine.session(context=CAPACITY, seed=0, speech=False, system="")

    def _count_marks(self) -> int:
        """Positions of a prompt beside its text."""
        self._fresh.push("a")
        done = next(event for event in self._fresh.reply(max_new_tokens=1) if isinstance(event, TurnDone))
        return done.prompt_tokens - 1

    def _text(self, tokens: int) -> str:
        """Text of exactly `tokens` tokens."""
        encode = self._engine.text.encode
        text = " ".join(LETTERS[index % 26] for index in range(tokens))
        while len(encode(text)) > tokens:
            text = text[:-1]
        if len(encode(text)) != tokens:
            raise UsageError(f"No text of {tokens} tokens was found for this tokenizer.")
        return text


def _next_text(events: Iterator[Event]) -> Event:
    """Runs on to the next token of the reply."""
    return next(event for event in events if isinstance(event, TextDelta) and event.token_ids)


if __name__ == "__main__":
    main(__doc__, build, Omni)
