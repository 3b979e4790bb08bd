"""Showing a reply as it comes: text for people, JSON lines named like the Realtime API's events for programs."""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from typing import Any, Protocol

from omni_edge import AudioChunk, TextDelta, TurnDone
from omni_edge.events import Event
from omni_edge.media.wav import pcm16


class Printer(Protocol):
    """Something that shows the events of a reply."""

    def show(self, event: Event) -> None:
        """Shows one event, at once."""


class TextPrinter:
    """The reply's text on stdout, as it is written, and a line end when it is complete."""

    def show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            sys.stdout.write(event.text)
        elif isinstance(event, TurnDone):
            sys.stdout.write("\n")
        sys.stdout.flush()


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
