"""`/v1/realtime`, spoken to by OpenAI's own client."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from omni_edge import OmniEdge
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.serve.settings import Limits, ServeSettings
from omni_edge.serve.sound_format import from_g711, to_g711, to_pcm16
from support.served import Served, served
from support.spoken import question, silence

DATA = Path(__file__).parents[2] / "data"
RATE = 24_000
# OpenAI's client opens its WebSocket in a way that websockets 17 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    ours = [record for record in caplog.records if record.name.startswith(("omni_edge", "aiohttp", "asyncio"))]
    assert [record.getMessage() for record in ours if record.levelno >= logging.ERROR or record.exc_info] == []


class Talk:
    """A session of the official client."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.session = self.until("session.created")[-1]["session"]

    def until(self, *kinds: str) -> list[dict[str, Any]]:
        """Events up to the first of one of these types."""
        events = []
        while not events or events[-1]["type"] not in kinds:
            events.append(self.connection.recv().to_dict())
            if events[-1]["type"] == "error":
                assert "error" in kinds, events[-1]
        return events

    def update(self, **session: Any) -> dict[str, Any]:
        self.connection.session.update(session={"type": "realtime", **session})
        updated: dict[str, Any] = self.until("session.updated")[-1]["session"]
        return updated

    def text(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        self.until("conversation.item.done")

    def respond(self, **response: Any) -> list[dict[str, Any]]:
        self.connection.response.create(response=response)
        return self.until("response.done")

    def say(self, samples: np.ndarray) -> None:
        """Appends samples at 16 kHz in pieces of 20 ms."""
        converted = resampler(16_000, RATE).step(samples, ResampleState(), end=True)
        assert converted is not None
        data = to_pcm16(converted)
        for start in range(0, len(data), 960):
            self.connection.input_audio_buffer.append(audio=base64.b64encode(data[start : start + 960]).decode())

    def error(self, event: dict[str, Any]) -> str:
        self.connection.send(event)
        code: str = self.until("error")[-1]["error"]["code"]
        return code


@contextmanager
def talk(server: Served) -> Iterator[Talk]:
    with server.client() as client, client.realtime.connect(model="omni") as connection:
        yield Talk(connection)


def types(events: list[dict[str, Any]]) -> list[str]:
    """The types of events, neighbours alike once."""
    names = [event["type"] for event in events]
    return [name for index, name in enumerate(names) if not index or names[index - 1] != name]


def transcript(events: list[dict[str, Any]]) -> str:
    kinds = ("response.output_audio_transcript.delta", "response.output_text.delta")
    return "".join(event["delta"] for event in events if event["type"] in kinds)


def samples(events: list[dict[str, Any]]) -> np.ndarray:
    data = [base64.b64decode(event["delta"]) for event in events if event["type"] == "response.output_audio.delta"]
    return np.frombuffer(b"".join(data), "<i2")


def test_a_spoken_turn_is_heard_and_answered_by_voice(server: Served, nano: OmniEdge) -> None:
    session = nano.session(speech=False)
    with talk(server) as spoken:
        detection = spoken.session["audio"]["input"]["turn_detection"]
        assert (detection["threshold"], detection["prefix_padding_ms"], detection["silence_duration_ms"]) == (
            0.5,
            300,
            500,
        )
        spoken.say(np.concatenate([silence(0.6), question(), silence(1.0)]))
        events = spoken.until("response.done")
        assert [name for name in types(events) if not name.endswith("delta")] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        assert 200 < events[0]["audio_start_ms"] < 1000 < events[1]["audio_end_ms"] < 2500
        done = events[-1]["response"]
        assert done["status"] == "completed"
        assert done["output"][0]["content"][0]["transcript"] == transcript(events) != ""
        assert 0.5 * RATE < samples(events).size < 6 * RATE
        # What was said was prefilled while it was said, and gives the tokens of the same sound at once.
        assert done["usage"]["input_tokens"] > session.offset + 40


def test_text_turns_and_a_second_turn_that_follows(server: Served) -> None:
    with talk(server) as written:
        shown = written.update(output_modalities=["text"], instructions="")
        assert shown["output_modalities"] == ["text"]
        written.text("turn on the kitchen light")
        assert transcript(written.respond()) == "The kitchen light is on."
        written.text("turn it off")
        events = written.respond()
        assert transcript(events) == "The kitchen light is off."
        assert samples(events).size == 0
        usage = events[-1]["response"]["usage"]
        assert usage["input_token_details"]["cached_tokens"] > usage["input_tokens"] / 2
        # The other kind of output, for one response.
        written.text("turn it on")
        assert samples(written.respond(output_modalities=["audio"])).size > 0


def test_the_model_may_speak_first(server: Served) -> None:
    with talk(server) as written:
        written.update(output_modalities=["text"])
        for _ in range(2):
            response = written.respond(instructions="Greet the user.", max_output_tokens=4)[-1]["response"]
            assert response["status"] in ("completed", "incomplete")
            assert response["output"][0]["content"][0]["text"] != ""
        written.text("turn on the kitchen light")
        assert written.respond()[-1]["response"]["status"] == "completed"


def test_a_user_who_says_nothing_is_spoken_to(server: Served) -> None:
    with talk(server) as spoken:
        detection = {"type": "server_vad", "idle_timeout_ms": 200}
        shown = spoken.update(audio={"input": {"turn_detection": detection}})
        assert shown["audio"]["input"]["turn_detection"]["idle_timeout_ms"] == 200
        spoken.text("turn on the kitchen light")
        began = time.monotonic()
        reply = spoken.respond(max_output_tokens=50)
        events = spoken.until("input_audio_buffer.timeout_triggered")
        # After the reply was played, and not before.
        assert time.monotonic() - began > samples(reply).size / RATE + 0.2
        assert types(events) == ["input_audio_buffer.timeout_triggered"]
        following = spoken.until("response.created")
        assert types(following) == [
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
        ]
        assert following[0]["item_id"] == events[0]["item_id"]
        spoken.connection.response.cancel()
        spoken.until("response.done")


def test_a_conversation_of_many_items_goes_on(nano: OmniEdge) -> None:
    with served(nano, ServeSettings(port=0, limits=Limits(items=8))) as small, talk(small) as written:
        written.update(output_modalities=["text"])
        for _ in range(6):
            written.text("turn on the kitchen light")
            assert transcript(written.respond()) == "The kitchen light is on."
        for index in range(20):
            content = [{"type": "input_text", "text": "x"}]
            item = {"id": f"x{index}", "type": "message", "role": "user", "content": content}
            written.connection.conversation.item.create(item=item)
            written.until("conversation.item.done")
        assert written.error({"type": "conversation.item.retrieve", "item_id": "x0"}) == "item_not_found"
        written.connection.conversation.item.retrieve(item_id="x19")
        written.until("conversation.item.retrieved")


def test_truncation_keeps_the_words_that_were_heard(server: Served) -> None:
    with talk(server) as spoken:
        spoken.text("turn on the kitchen light")
        events = spoken.respond()
        item = events[-1]["response"]["output"][0]["id"]
        heard = round(1000 * samples(events).size / RATE * 0.6)
        spoken.connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=heard)
        assert spoken.until("conversation.item.truncated")[-1]["audio_end_ms"] == heard
        spoken.connection.conversation.item.retrieve(item_id=item)
        kept = spoken.until("conversation.item.retrieved")[-1]["item"]["content"][0]["transcript"]
        assert kept == "The kitchen"
        spoken.text("and now")
        assert spoken.respond()[-1]["response"]["status"] == "completed"
        assert spoken.error({"type": "conversation.item.truncate", "item_id": item, "audio_end_ms": 10**6}) != ""
        spoken.connection.conversation.item.delete(item_id=item)
        spoken.until("conversation.item.deleted")
        assert spoken.error({"type": "conversation.item.retrieve", "item_id": item}) == "item_not_found"


def test_a_response_is_cancelled_by_the_client_and_by_speech(engine: OmniEdge) -> None:
    with served(engine, ServeSettings(port=0)) as endless, talk(endless) as spoken:
        spoken.text("hello")
        spoken.connection.response.create()
        spoken.until("response.output_audio.delta")
        spoken.connection.response.cancel()
        done = spoken.until("response.done")[-1]["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        spoken.text("hello again")
        spoken.connection.response.create()
        assert spoken.error({"type": "response.create"}) == "conversation_already_has_active_response"
        spoken.until("response.output_audio.delta")
        spoken.say(np.concatenate([silence(0.3), question()]))
        events = spoken.until("response.done")
        assert "input_audio_buffer.speech_started" in types(events)
        assert events[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert spoken.error({"type": "response.cancel"}) == "response_cancel_not_active"


def test_without_detection_the_client_ends_turns(server: Served) -> None:
    with talk(server) as spoken:
        law = {"type": "audio/pcmu"}
        shown = spoken.update(audio={"input": {"turn_detection": None, "format": law}, "output": {"format": law}})
        assert shown["audio"]["input"]["turn_detection"] is None
        assert spoken.error({"type": "input_audio_buffer.commit"}) == "input_audio_buffer_commit_empty"
        converted = resampler(16_000, 8_000).step(question(), ResampleState(), end=True)
        assert converted is not None
        spoken.connection.input_audio_buffer.append(audio=base64.b64encode(to_g711(converted, "pcmu")).decode())
        spoken.connection.input_audio_buffer.commit()
        assert types(spoken.until("conversation.item.done"))[0] == "input_audio_buffer.committed"
        events = spoken.respond()
        data = b"".join(
            base64.b64decode(event["delta"]) for event in events if event["type"] == "response.output_audio.delta"
        )
        assert 0.5 < len(data) / 8000 < 6
        assert float(np.std(from_g711(data, "pcmu"))) > 300
        spoken.connection.input_audio_buffer.append(audio=base64.b64encode(b"\xff" * 8000).decode())
        spoken.connection.input_audio_buffer.clear()
        spoken.until("input_audio_buffer.cleared")
        assert spoken.error({"type": "input_audio_buffer.commit"}) == "input_audio_buffer_commit_empty"


def test_pictures_are_items(server: Served) -> None:
    with talk(server) as written:
        written.update(output_modalities=["text"])
        uri = f"data:image/png;base64,{base64.b64encode((DATA / 'cat.png').read_bytes()).decode()}"
        content = [{"type": "input_image", "image_url": uri}, {"type": "input_text", "text": "what is this"}]
        written.connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        written.until("conversation.item.done")
        assert written.respond()[-1]["response"]["usage"]["input_tokens"] > 30


def test_pictures_that_come_while_the_user_speaks_stand_behind_the_sound(server: Served) -> None:
    with talk(server) as spoken:
        spoken.update(output_modalities=["text"], audio={"input": {"turn_detection": None}})
        spoken.say(question())
        uri = f"data:image/png;base64,{base64.b64encode((DATA / 'cat.png').read_bytes()).decode()}"
        content = [{"type": "input_image", "image_url": uri}]
        spoken.connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        assert spoken.until("conversation.item.done")[-1]["previous_item_id"] is None
        spoken.connection.input_audio_buffer.commit()
        added = spoken.until("conversation.item.done")
        assert [event["previous_item_id"] for event in added] == [None, None, None]
        used = spoken.respond(max_output_tokens=1)[-1]["response"]["usage"]
        # The system prompt and the sound were in the caches; the picture was not.
        assert used["input_tokens"] - 60 < used["input_token_details"]["cached_tokens"] < used["input_tokens"]


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_a_function_is_called_and_its_result_is_answered(server: Served, modality: str) -> None:
    room = {"type": "object", "properties": {"room": {"enum": ["kitchen"]}}, "required": ["room"]}
    room["additionalProperties"] = False
    light = {"type": "function", "name": "set_light", "description": "Switches a light.", "parameters": room}
    with talk(server) as written:
        once = {"tools": [light], "tool_choice": "required", "parallel_tool_calls": False}
        shown = written.update(output_modalities=[modality], **once)
        assert (shown["tools"], shown["tool_choice"]) == ([light], "required")
        written.text("turn on the kitchen light")
        events = written.respond()
        kinds = [event["type"] for event in events]
        assert not any("audio" in kind or "text" in kind for kind in kinds)
        done = events[kinds.index("response.function_call_arguments.done")]
        assert json.loads(done["arguments"])["room"] == "kitchen"
        (item,) = events[-1]["response"]["output"]
        assert (item["type"], item["name"], item["call_id"]) == ("function_call", "set_light", done["call_id"])
        output = {"type": "function_call_output", "call_id": item["call_id"], "output": '{"ok": true}'}
        written.connection.conversation.item.create(item=output)
        written.until("conversation.item.done")
        assert written.update(tool_choice="auto")["tools"] == [light]
        answered = written.respond(max_output_tokens=8, output_modalities=["text"])[-1]["response"]
        assert [item["type"] for item in answered["output"]] == ["message"]
        # The call is in the caches as the model wrote it.
        used = events[-1]["response"]["usage"]
        assert answered["usage"]["input_token_details"]["cached_tokens"] >= used["total_tokens"] - 1


def test_the_laws_of_telephones_are_inverse() -> None:
    for law in ("pcmu", "pcma"):
        codes = bytes(range(256))
        values = from_g711(codes, law)
        back = from_g711(to_g711(values.astype(np.float32) / 32767, law), law)
        np.testing.assert_array_equal(back, values)
    assert [int(from_g711(b"\x00", law)[0]) for law in ("pcmu", "pcma")] == [-32124, -5504]
    assert [int(from_g711(b"\xff", law)[0]) for law in ("pcmu", "pcma")] == [0, 848]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ("", "invalid_json"),
        ("[]", "invalid_type"),
        ("[" * 100_000, "invalid_json"),
        ('{"type": 1}', "invalid_type"),
        ('{"type": "nothing"}', "unknown_event"),
        ('{"type": "output_audio_buffer.clear"}', "unknown_event"),
        ('{"type": "session.update"}', "missing_required_parameter"),
        ('{"type": "session.update", "session": {"type": "transcription"}}', "unsupported_session"),
        ('{"type": "session.update", "session": {"tools": [{"type": "mcp"}]}}', "invalid_value"),
        ('{"type": "session.update", "session": {"audio": {"output": {"voice": "alloy"}}}}', "invalid_value"),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "x"}}}}}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "invalid_base64"),
        ('{"type": "conversation.item.create", "item": {"type": "item_reference"}}', "invalid_value"),
        ('{"type": "conversation.item.create", "item": {"type": "function_call"}}', "missing_required_parameter"),
        ('{"type": "conversation.item.create", "item": {"type": "message", "role": "user"}}', "invalid_value"),
        ('{"type": "conversation.item.delete", "item_id": "x"}', "item_not_found"),
        ('{"type": "response.create", "response": {"conversation": "none"}}', "unsupported"),
        ('{"type": "response.create", "response": {"input": [{}]}}', "unsupported_parameter"),
    ],
)
def test_events_that_are_wrong_are_named(server: Served, event: str, code: str) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as socket:
        assert json.loads(socket.recv(10))["type"] == "session.created"
        socket.send(event)
        answer = json.loads(socket.recv(10))
        assert (answer["type"], answer["error"]["code"]) == ("error", code)
        socket.send(json.dumps({"type": "session.update", "session": {"type": "realtime"}}))
        assert json.loads(socket.recv(10))["type"] == "session.updated"


def send_for_ever(socket: Any, event: str) -> None:
    for _ in range(5000):
        socket.send(event)


def test_clients_that_lag_are_closed(engine: OmniEdge) -> None:
    limits = Limits(send=0.3, send_bytes=1 << 16, sessions=1)
    with served(engine, ServeSettings(port=0, limits=limits)) as endless:
        address = f"ws://127.0.0.1:{endless.port}/v1/realtime"
        with connect(address, max_queue=1) as socket:
            socket.recv(10)
            with pytest.raises(Exception, match="429"):
                connect(address)
            text = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 30_000}]}
            event = json.dumps({"type": "conversation.item.create", "item": text})
            with pytest.raises(ConnectionClosed):
                send_for_ever(socket, event)
        with connect(address) as socket:
            assert json.loads(socket.recv(10))["type"] == "session.created"
