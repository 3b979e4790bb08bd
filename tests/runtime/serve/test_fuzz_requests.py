"""Requests of strangers: whatever JSON comes, it is read or refused by one kind of error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from omni_edge.errors import OmniEdgeError
from omni_edge.serve.chat_request import parse_chat_request
from omni_edge.serve.faults import RequestError
from omni_edge.serve.fields import parse_json
from omni_edge.serve.realtime.items import parse_item
from omni_edge.serve.realtime.session_config import SessionConfig
from omni_edge.serve.settings import Limits

LIMITS = Limits(text=1000, items=8)
WORDS = (
    *("messages", "role", "content", "type", "text", "input_text", "input_audio", "input_image", "image_url", "url"),
    *("user", "assistant", "system", "audio", "voice", "format", "id", "data", "stop", "seed", "n", "stream", "tools"),
    *("modalities", "temperature", "max_tokens", "response_format", "stream_options", "message", "realtime", "input"),
    *(
        "output",
        "turn_detection",
        "server_vad",
        "semantic_vad",
        "threshold",
        "silence_duration_ms",
        "eagerness",
        "rate",
    ),
    *("instructions", "output_modalities", "max_output_tokens", "inf", "output_audio", "transcript", "audio/pcmu"),
    *("data:image/png;base64,AAAA", "data:,", "AAAA", "NaN", "\ud800", "conversation", "none", "speed", "prompt"),
)
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.integers(-3, 3), st.floats(), st.text(max_size=4)),
    *(st.sampled_from(WORDS) for _ in range(4)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)),
    max_leaves=16,
)
OBJECTS = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=6)
ROLES = st.sampled_from(["user", "assistant", "system", "x"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES}, optional={"content": VALUES}), max_size=3)
CHATS = st.builds(lambda body, messages: {**body, "messages": messages}, OBJECTS, MESSAGES)
ITEMS = st.fixed_dictionaries(
    {"type": st.just("message"), "role": st.sampled_from(["user", "assistant", "system"])},
    optional={"content": st.lists(OBJECTS, max_size=3) | VALUES, "id": VALUES},
)


def read(value: Any, reader: Any) -> None:
    """Reads JSON; a refusal is fine, anything else is a fault."""
    with suppress(RequestError, OmniEdgeError):
        reader(parse_json(json.dumps(value)))


@settings(max_examples=120, deadline=None)
@given(CHATS)
def test_chat_requests(body: dict[str, Any]) -> None:
    read(body, lambda fields: parse_chat_request(fields, LIMITS, lambda name: None))


@settings(max_examples=120, deadline=None)
@given(OBJECTS, ITEMS)
def test_realtime_events(session: dict[str, Any], item: dict[str, Any]) -> None:
    read(session, lambda fields: SessionConfig().updated(fields).as_json("s", "m", ["v"], 0))
    read(session, lambda fields: SessionConfig().for_response(fields))
    read(session, lambda fields: turn_settings(SessionConfig().updated(fields)))
    read(item, lambda fields: parse_item(fields, SessionConfig(), LIMITS))


def turn_settings(config: SessionConfig) -> None:
    if config.turn_detection is not None:
        config.turn_detection.turn_settings()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40))
def test_anything_else(data: bytes | str) -> None:
    with suppress(RequestError):
        parse_json(data)
