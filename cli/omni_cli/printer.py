"""Showing a reply as it comes: text for people, JSON lines named like the Realtime API's events for programs."""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from typing import Any, Protocol, TextIO

from omni_edge import AudioChunk, TextDelta, TurnDone
from omni_edge.events import Event
from omni_edge.media.wav import pcm16


class Printer(Protocol):
    """Something that shows the events of a reply."""

    def show(self, event: Event) -> None:
        """Shows one event, at once."""


class TextPrinter:
    """Writes the reply's text as it comes, and a line end when it is complete.

    Args:
        stream: where to; None: stdout.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def show(self, event: Event) -> None:
        """Writes what is new."""
        if isinstance(event, TextDelta):
            self._stream.write(event.text)
        elif isinstance(event, TurnDone):
            self._stream.write("\n")
        self._stream.flush()


class JsonPrinter:
    """One JSON object per line: `response.created`, deltas of text and audio (PCM16, base64), `response.done`."""

    def __init__(self, **about: Any) -> None:
        self._line("response.created", **about)

    def show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._line("response.output_text.delta", delta=event.text, token_ids=event.token_ids)
        elif isinstance(event, AudioChunk):
            self._line(
                "response.output_audio.delta",
                start=event.start,
                samples=len(event.samples),
                rate=event.rate,
                delta=base64.b64encode(pcm16(event.samples)).decode("ascii"),
            )
        else:
            self._line("response.done", **dataclasses.asdict(event))

    def _line(self, kind: str, **content: Any) -> None:
        sys.stdout.write(json.dumps({"type": kind, **content}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
