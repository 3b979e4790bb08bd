"""The items of a Realtime conversation: read from a client's JSON, shown as JSON, rendered as parts for the model."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omni_edge.events import AudioClip
from omni_edge.live.heard_words import DEFAULT_CHARACTERS_PER_SECOND, heard_characters, heard_tokens
from omni_edge.serve.cached_conversation import Part, ReplyPart, UserPart
from omni_edge.serve.chat_request import text_part
from omni_edge.serve.data_uri import Attachment, decode_base64, read_data_uri
from omni_edge.serve.fields import Fields
from omni_edge.serve.realtime.session_config import SessionConfig
from omni_edge.serve.settings import Limits
from omni_edge.serve.sound_format import from_g711, from_pcm16
from omni_edge.serve.tools import ToolCall, reply_text, result_text

_LONGEST_ID = 64


@dataclass(eq=False)
class Item:
    """A message, a call of a function, or its result.

    Attributes:
        id: its name.
        role: "user", "assistant" or "system".
        content: as clients see it, without sound and pictures.
        parts: what the model gets of a user's item.
        pieces: of a reply: the text of each token.
        samples: of a reply: length of its speech.
        rate: samples per second of its speech; 0: it has none.
        whole: of a reply: its speech is complete.
        status: "completed", "in_progress" or "incomplete".
        call: the call; None: it is none.
        result: what a function returned, and the id of its call; None: it is none.
    """

    id: str
    role: str
    content: list[dict[str, Any]] = field(default_factory=list)
    parts: list[UserPart] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    samples: int = 0
    rate: int = 0
    whole: bool = False
    status: str = "completed"
    call: ToolCall | None = None
    result: tuple[str, str] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its sound and pictures."""
        return sum(part.nbytes for part in self.parts)

    @property
    def is_pictures(self) -> bool:
        """Whether it holds pictures and nothing else."""
        return bool(self.content) and all(part["type"] == "input_image" for part in self.content)

    @property
    def text(self) -> str:
        """Of a reply: what the conversation keeps."""
        return "".join(self.pieces)

    def as_json(self) -> dict[str, Any]:
        """The item as clients see it."""
        shown: dict[str, Any] = {"id": self.id, "object": "realtime.item", "status": self.status}
        if self.call is not None:
            call = {"call_id": self.call.id, "name": self.call.name, "arguments": self.call.arguments}
            return {**shown, "type": "function_call", **call}
        if self.result is not None:
            output, call_id = self.result
            return {**shown, "type": "function_call_output", "call_id": call_id, "output": output}
        return {**shown, "type": "message", "role": self.role, "content": self.content}

    def cut(self, seconds: float) -> None:
        """Keeps of a reply what was heard in its first `seconds`, down to a whole word."""
        total = self.samples / self.rate if self.whole and self.rate else None
        count = heard_characters(len(self.text), seconds, total, DEFAULT_CHARACTERS_PER_SECOND)
        self.pieces = self.pieces[: heard_tokens(self.pieces, count)]
        for part in self.content:
            part["transcript" if "transcript" in part else "text"] = self.text


def new_id(kind: str) -> str:
    """A name that no client guesses."""
    return f"{kind}_{secrets.token_hex(12)}"


def rendered(items: Sequence[Item]) -> list[Part]:
    """The parts of a conversation."""
    parts: list[Part] = []
    for before, item in zip([None, *items], items, strict=False):
        if item.role != "assistant":
            if item.result is not None and before is not None and before.role != "assistant":
                parts.append(text_part("\n"))
            parts += item.parts
        elif item.call is not None:
            # A call belongs to the reply in front of it.
            last = parts.pop() if parts and isinstance(parts[-1], ReplyPart) else None
            parts.append(ReplyPart(reply_text(last.text if isinstance(last, ReplyPart) else "", [item.call])))
        elif item.text:
            parts.append(ReplyPart(item.text))
    return parts


@dataclass(frozen=True)
class NewItem:
    """An item that a client creates; its files are not decoded yet."""

    item: Item
    contents: tuple[UserPart | Attachment, ...]


def parse_item(fields: Fields, config: SessionConfig, limits: Limits) -> NewItem:
    """Reads an item.

    Raises:
        RequestError: something is wrong or not supported.
    """
    kind = fields.choice("type", ("message", "function_call", "function_call_output"))
    if kind != "message":
        return _parse_function(fields, kind, limits)
    role = fields.choice("role", ("user", "assistant", "system"))
    item = Item(fields.text("id", new_id("item"), longest=_LONGEST_ID), role)
    contents: list[UserPart | Attachment] = []
    for part in fields.objects("content", limits.items):
        if role == "assistant":
            kind = part.choice("type", ("output_text", "text", "output_audio"))
            name = "transcript" if kind == "output_audio" else "text"
            item.pieces.append(part.text(name, longest=limits.text))
            item.content.append(
                {"type": "output_audio" if kind == "output_audio" else "output_text", name: item.pieces[-1]}
            )
            continue
        kind = part.choice("type", ("input_text", "input_audio", "input_image") if role == "user" else ("input_text",))
        if kind == "input_text":
            contents.append(text_part(part.text("text", longest=limits.text)))
            item.content.append({"type": kind, "text": part.text("text", longest=limits.text)})
        elif kind == "input_audio":
            data = decode_base64(part.text("audio", longest=limits.message), part.at("audio"))
            contents.append(
                UserPart(f"sound {item.id} {len(contents)}", AudioClip(decode_sound(data, config), config.input_rate))
            )
            item.content.append({"type": kind, "transcript": None})
        else:
            part.choice("detail", ("auto", "low", "high"), "auto")
            contents.append(
                read_data_uri(part.text("image_url", longest=limits.message), "image", part.at("image_url"))
            )
            item.content.append({"type": kind})
    if not item.content:
        raise fields.wrong("content", "must not be empty")
    return NewItem(item, tuple(contents))


def _parse_function(fields: Fields, kind: str, limits: Limits) -> NewItem:
    """A call of a function, or its result."""
    name, call_id = fields.text("id", new_id("item"), longest=_LONGEST_ID), fields.text("call_id", longest=_LONGEST_ID)
    if kind == "function_call":
        call = ToolCall(fields.text("name"), fields.text("arguments", longest=limits.text), call_id)
        return NewItem(Item(name, "assistant", call=call), ())
    output = fields.text("output", longest=limits.text)
    return NewItem(Item(name, "user", result=(output, call_id)), (text_part(result_text(output)),))


def decode_sound(data: bytes, config: SessionConfig) -> Any:
    """A client's bytes as int16 [n]."""
    return from_pcm16(data) if config.input_law is None else from_g711(data, config.input_law)
