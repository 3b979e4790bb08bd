"""Functions that a client offers to the model: read from its JSON, written for the model, and called by it.

The forms are those that Qwen2.5 was trained on: a list of signatures behind the system prompt, calls within
`<tool_call>`, and results within `<tool_response>` in a turn of the user.
Source: the chat template of Qwen2.5-Instruct.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from omni_edge.conversation.stop_strings import StopStrings
from omni_edge.serve.fields import Fields

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_MOST_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SIGNATURES = (
    "# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n{signatures}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)


@dataclass(frozen=True)
class Tool:
    """A function.

    Attributes:
        name: of the function.
        signature: its name, description and parameters, as the client gave them.
    """

    name: str
    signature: dict[str, Any]

    @property
    def call_schema(self) -> dict[str, Any]:
        """The JSON schema of a call."""
        return {
            "type": "object",
            "properties": {"name": {"const": self.name}, "arguments": self.signature.get("parameters") or _ANY_OBJECT},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }


_ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class ToolSet:
    """The functions of a request.

    Attributes:
        tools: those that the model may call; empty where it must not call any.
        required: whether the reply must be a call.
        parallel: whether it may be several.
        offered: all that the client gave, as it gave them.
        choice: as the client gave it.
    """

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True
    offered: tuple[Any, ...] = field(default=(), compare=False)
    choice: Any = field(default="auto", compare=False)

    @property
    def unspoken(self) -> tuple[str, ...]:
        """What ends the speech of a reply: a call is written only."""
        return (CALL_START,) if self.tools else ()

    def behind(self, system: str) -> str:
        """A system prompt with the functions behind it."""
        if not self.tools:
            return system
        lines = [_json({"type": "function", "function": tool.signature}) for tool in self.tools]
        section = _SIGNATURES.format(signatures="\n".join(lines))
        return f"{system}\n\n{section}" if system else section


NO_TOOLS = ToolSet()


def read_tools(fields: Fields, *, flat: bool) -> ToolSet:
    """Reads `tools`, `tool_choice` and `parallel_tool_calls`.

    Args:
        fields: the request, or the settings of a Realtime session.
        flat: whether a function's fields stand beside its type, as in Realtime, or below `function`.

    Raises:
        RequestError: something is wrong or not supported.
    """
    tools: list[Tool] = []
    for entry in fields.objects("tools", _MOST_TOOLS):
        entry.choice("type", ("function",))
        function = entry if flat else entry.object("function")
        if function is None:
            raise entry.wrong("function", "is missing", "missing_required_parameter")
        name = function.text("name")
        if not _NAME.fullmatch(name):
            raise function.wrong("name", "must have 1 to 64 letters, digits, _, - or .")
        if any(other.name == name for other in tools):
            raise function.wrong("name", "is the name of another function too")
        signature: dict[str, Any] = {"name": name}
        if function.has("description"):
            signature["description"] = function.text("description")
        if function.object("parameters") is not None:
            signature["parameters"] = function.raw("parameters")
        tools.append(Tool(name, signature))
    chosen, required = _choice(fields, tools, flat)
    return ToolSet(
        chosen,
        required,
        parallel=fields.flag("parallel_tool_calls", True),
        offered=tuple(fields.raw("tools") or ()),
        choice=fields.raw("tool_choice") or "auto",
    )


def _choice(fields: Fields, tools: Sequence[Tool], flat: bool) -> tuple[tuple[Tool, ...], bool]:
    """The functions that may be called, and whether one must be."""
    if not isinstance(fields.raw("tool_choice"), dict):
        choice = fields.choice("tool_choice", ("auto", "none", "required"), "auto")
        if choice == "required" and not tools:
            raise fields.wrong("tool_choice", "is required, but there are no tools")
        return (() if choice == "none" else tuple(tools)), choice == "required"
    named = fields.object("tool_choice")
    assert named is not None
    named.choice("type", ("function",))
    function = named if flat else named.object("function")
    if function is None:
        raise named.wrong("function", "is missing", "missing_required_parameter")
    chosen = tuple(tool for tool in tools if tool.name == function.text("name"))
    if not chosen:
        raise function.wrong("name", "is no function of tools")
    return chosen, True


# -- calls and results -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolCall:
    """A call.

    Attributes:
        name: of the function.
        arguments: JSON.
        id: by which the client gives the result.
    """

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    def text(self) -> str:
        """The call as the model writes it."""
        try:
            arguments = _json(json.loads(self.arguments))
        except (ValueError, RecursionError):
            arguments = self.arguments
        return f'{CALL_START}\n{{"name": {_json(self.name)}, "arguments": {arguments}}}\n{CALL_END}'


def reply_text(said: str, calls: Sequence[ToolCall]) -> str:
    """A reply with calls, as the model writes it."""
    return "\n".join([*([said] if said else []), *(call.text() for call in calls)])


def result_text(result: str) -> str:
    """The result of a call, as the model reads it."""
    return f"<tool_response>\n{result}\n</tool_response>"


class CallReader:
    """Takes the calls out of a reply that comes in pieces.

    Args:
        names: of the functions; what calls another one, or is no JSON, is passed on as text.

    Attributes:
        said: the text without the calls.
        calls: those so far.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._start = StopStrings((CALL_START,) if names else ())
        self._inside: str | None = None
        # White space stands between text and calls.
        self._space = ""
        self.said = ""
        self.calls: list[ToolCall] = []

    def push(self, piece: str) -> list[str | ToolCall]:
        """Takes the next piece; returns text and calls that are complete."""
        if not self._names:
            self.said += piece
            return [piece] if piece else []
        out: list[str | ToolCall] = []
        self._take(piece, out)
        return out

    def close(self) -> list[str | ToolCall]:
        """The reply has ended: what was held back is text, or a call without its end."""
        out: list[str | ToolCall] = []
        if self._inside is not None:
            inside, self._inside = self._inside, None
            self._call(inside, "", out)
        elif self._names:
            self._say(self._start.close(""), out)
        return out

    def _take(self, piece: str, out: list[str | ToolCall]) -> None:
        if self._inside is None:
            before = len(self._start.text)
            self._start.push(piece)
            self._say(self._start.text[before:], out)
            if not self._start.found:
                return
            self._inside = self._start.behind
            self._start = StopStrings((CALL_START,))
        else:
            self._inside += piece
        inside, end, rest = self._inside.partition(CALL_END)
        if end:
            self._inside = None
            self._call(inside, end, out)
            self._take(rest, out)

    def _say(self, text: str, out: list[str | ToolCall]) -> None:
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self.said += kept
            out.append(kept)

    def _call(self, inside: str, end: str, out: list[str | ToolCall]) -> None:
        call = self._parsed(inside)
        if call is None:
            self._say(f"{CALL_START}{inside}{end}", out)
            return
        self._space = ""
        self.calls.append(call)
        out.append(call)

    def _parsed(self, inside: str) -> ToolCall | None:
        try:
            value = json.loads(inside)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", {})
        return ToolCall(value["name"], _json(arguments)) if isinstance(arguments, dict) else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
