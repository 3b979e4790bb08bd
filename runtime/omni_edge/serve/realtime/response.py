"""One response: the events of a reply as a Realtime client expects them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omni_edge.events import AudioChunk, TextDelta, TurnDone
from omni_edge.serve.chat import usage
from omni_edge.serve.faults import RequestError
from omni_edge.serve.realtime.items import Item, new_id
from omni_edge.serve.realtime.session_config import PCM_RATE, SessionConfig
from omni_edge.serve.sound_format import TELEPHONE_RATE, OutputRate, to_g711, to_pcm16
from omni_edge.serve.tools import CallReader, ToolCall

Put = Callable[[dict[str, Any]], None]
Place = Callable[[Item], str | None]


@dataclass
class Response:
    """A reply on its way to the client.

    Attributes:
        config: the session's settings, with those of this response.
        put: sends an event.
        rate: samples per second of the model's speech; None: the reply is text.
        metadata: what the client attached.
        id: its name.
        item: the message that it becomes.
        reason: why it was cancelled.
        closed: whether `response.done` was sent.
    """

    config: SessionConfig
    put: Put
    rate: int | None
    metadata: Any = None
    id: str = field(default_factory=lambda: new_id("resp"))
    item: Item = field(default_factory=lambda: Item(new_id("item"), "assistant", status="in_progress"))
    reason: str = "client_cancelled"
    closed: bool = False

    def __post_init__(self) -> None:
        self._reader = CallReader([tool.name for tool in self.config.tools.tools])
        # The message, once there is one, and calls of functions.
        self._items: list[Item] = []
        law = self.config.output_law
        self._output = None if self.rate is None else OutputRate(self.rate, PCM_RATE if law is None else TELEPHONE_RATE)
        self._part: dict[str, Any] = (
            {"type": "output_text", "text": ""} if self.rate is None else {"type": "output_audio", "transcript": ""}
        )

    @property
    def _name(self) -> str:
        return "text" if self.rate is None else "transcript"

    def created(self) -> None:
        """The response begins."""
        self.put({"type": "response.created", "response": self._json("in_progress")})

    def begin(self, place: Place) -> None:
        """The reply begins.

        Args:
            place: adds an item to the conversation, and returns the id of the one in front of it.
        """
        self._place = place
        # With functions, the reply may be a call alone.
        if not self.config.tools.tools:
            self._open_message()

    def event(self, event: TextDelta | AudioChunk) -> None:
        """The next piece of text or speech."""
        if isinstance(event, TextDelta):
            for piece in self._reader.push(event.text):
                self._take(piece)
        elif self._output is not None:
            self._open_message()
            self.item.rate, self.item.samples = event.rate, self.item.samples + event.samples.size
            self._send_sound(self._output.push(event.samples))

    def done(self, done: TurnDone, cached: int) -> None:
        """The reply is complete, or its limit was reached."""
        for piece in self._reader.close():
            self._take(piece)
        if not self._items:
            self._open_message()
        if self._output is not None and self.item.samples:
            self._send_sound(self._output.push(np.zeros(0, np.float32), end=True))
        complete = done.finish_reason == "stop"
        self.item.whole = complete
        details = None if complete else {"type": "incomplete", "reason": "max_output_tokens"}
        self._close("completed" if complete else "incomplete", details, _usage(done, cached))

    def cancelled(self) -> None:
        """It was ended by the client or by the user's speech."""
        self._close("cancelled", {"type": "cancelled", "reason": self.reason}, None)

    def failed(self, error: RequestError) -> None:
        """It ends with an error."""
        self._close("failed", {"type": "failed", "error": error.as_json()}, None)

    def _take(self, piece: str | ToolCall) -> None:
        if isinstance(piece, ToolCall):
            self._add_call(piece)
            return
        self._open_message()
        self.item.pieces.append(piece)
        kind = "output_text" if self.rate is None else "output_audio_transcript"
        self.put({"type": f"response.{kind}.delta", **self._where, "delta": piece})

    def _open_message(self) -> None:
        if self.item not in self._items:
            self._add(self.item)
            self.put({"type": "response.content_part.added", **self._where, "part": self._shown()})

    def _add_call(self, call: ToolCall) -> None:
        item = Item(new_id("item"), "assistant", call=call)
        where = {"response_id": self.id, "output_index": len(self._items), "item_id": item.id, "call_id": call.id}
        self._add(item)
        self.put({"type": "response.function_call_arguments.delta", **where, "delta": call.arguments})
        done = {"name": call.name, "arguments": call.arguments}
        self.put({"type": "response.function_call_arguments.done", **where, **done})
        self._finish(item)

    def _add(self, item: Item) -> None:
        where = {"response_id": self.id, "output_index": len(self._items)}
        self._items.append(item)
        self.put({"type": "response.output_item.added", **where, "item": item.as_json()})
        previous = self._place(item)
        self.put({"type": "conversation.item.added", "previous_item_id": previous, "item": item.as_json()})

    def _finish(self, item: Item) -> None:
        where = {"response_id": self.id, "output_index": self._items.index(item)}
        self.put({"type": "response.output_item.done", **where, "item": item.as_json()})
        self.put({"type": "conversation.item.done", "previous_item_id": None, "item": item.as_json()})

    def _close(self, status: str, details: dict[str, Any] | None, used: dict[str, Any] | None) -> None:
        self.closed = True
        if self.item in self._items:
            self.item.status = "completed" if status == "completed" else "incomplete"
            self._part[self._name] = self.item.text
            self.item.content = [self._part]
            if self.rate is None:
                self.put({"type": "response.output_text.done", **self._where, "text": self.item.text})
            else:
                self.put({"type": "response.output_audio.done", **self._where})
                transcript = {"transcript": self.item.text}
                self.put({"type": "response.output_audio_transcript.done", **self._where, **transcript})
            self.put({"type": "response.content_part.done", **self._where, "part": self._shown()})
            self._finish(self.item)
        self.put({"type": "response.done", "response": self._json(status, details, used)})

    def _send_sound(self, samples: Any) -> None:
        law = self.config.output_law
        data = to_pcm16(samples) if law is None else to_g711(samples, law)
        if data:
            delta = base64.b64encode(data).decode("ascii")
            self.put({"type": "response.output_audio.delta", **self._where, "delta": delta})

    @property
    def _where(self) -> dict[str, Any]:
        index = self._items.index(self.item)
        return {"response_id": self.id, "item_id": self.item.id, "output_index": index, "content_index": 0}

    def _shown(self) -> dict[str, Any]:
        return {"type": "text" if self.rate is None else "audio", self._name: self._part[self._name]}

    def _json(
        self, status: str, details: dict[str, Any] | None = None, used: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [] if status == "in_progress" else [item.as_json() for item in self._items],
            "output_modalities": ["text" if self.rate is None else "audio"],
            "max_output_tokens": self.config.max_output_tokens or "inf",
            "metadata": self.metadata,
            "usage": used,
        }


def _usage(done: TurnDone, cached: int) -> dict[str, Any]:
    counted = usage(done, cached)
    spoken = len(done.codec_tokens)
    return {
        "total_tokens": counted["total_tokens"],
        "input_tokens": counted["prompt_tokens"],
        "output_tokens": counted["completion_tokens"],
        "input_token_details": {"cached_tokens": cached, "text_tokens": counted["prompt_tokens"], "audio_tokens": 0},
        "output_token_details": {"text_tokens": len(done.token_ids), "audio_tokens": spoken},
    }
