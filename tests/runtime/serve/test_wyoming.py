"""The Wyoming protocol, spoken to by the client of the `wyoming` package."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from omni_edge import AudioChunk as Samples
from omni_edge import OmniEdge
from omni_edge.conversation.settings import ReplySettings
from omni_edge.serve.settings import Limits, ServeSettings
from omni_edge.serve.sound_format import to_pcm16
from support.served import Served, served
from support.spoken import question

REPLY = "The kitchen light is on."


@pytest.fixture(scope="module")
def port(nano: OmniEdge) -> Iterator[int]:
    limits = Limits(sound=10, sessions=3, send=1)
    with served(nano, ServeSettings(port=0, wyoming_port=0, languages=("en", "de"), limits=limits)) as server:
        assert server.wyoming_port is not None
        yield server.wyoming_port


def ask(port: int, messages: list[Event], last: str) -> list[Event]:
    """What the server answers to some messages, up to the first event of a type."""

    async def talk() -> list[Event]:
        answers: list[Event] = []
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for message in messages:
                await client.write_event(message)
            while not answers or answers[-1].type not in (last, "error"):
                answer = await asyncio.wait_for(client.read_event(), 30)
                assert answer is not None
                answers.append(answer)
        return answers

    return asyncio.run(talk())


def spoken_question() -> list[Event]:
    samples = to_pcm16(question().astype(np.float32))
    form = {"rate": 16_000, "width": 2, "channels": 1}
    pieces = [AudioChunk(audio=samples[at : at + 2048], **form).event() for at in range(0, len(samples), 2048)]
    return [Transcribe(language="en").event(), AudioStart(**form).event(), *pieces, AudioStop().event()]


def kinds(events: list[Event]) -> list[str]:
    """The types of events, neighbours alike once."""
    names = [event.type for event in events]
    return [name for index, name in enumerate(names) if not index or names[index - 1] != name]


def test_the_server_says_what_it_is(port: int, nano: OmniEdge) -> None:
    found = Info.from_event(ask(port, [Ping("x").event(), Describe().event()], "info")[-1])
    (recognition,), (answers,), (speech,) = found.asr, found.handle, found.tts
    assert recognition.models[0].languages == answers.models[0].languages == ["en", "de"]
    assert [voice.name for voice in speech.voices] == nano.voices
    assert recognition.supports_transcript_streaming
    assert answers.supports_handled_streaming
    assert speech.supports_synthesize_streaming


def test_a_sound_is_written_down_in_pieces_and_as_a_whole(port: int) -> None:
    events = ask(port, spoken_question(), "transcript-stop")
    assert kinds(events) == ["transcript-start", "transcript-chunk", "transcript", "transcript-stop"]
    whole = events[-2].data["text"]
    assert "".join(event.data["text"] for event in events[1:-2]) == whole != ""


def test_a_conversation_goes_on_under_its_name(port: int) -> None:
    def said(text: str, name: str) -> str:
        message = Event("transcript", {"text": text, "context": {"conversation_id": name}})
        events = ask(port, [message], "handled-stop")
        assert kinds(events) == ["handled-start", "handled-chunk", "handled", "handled-stop"]
        answer: str = events[-2].data["text"]
        return answer

    assert said("turn on the kitchen light", "one") == REPLY
    assert said("turn on the bedroom light", "two") == "The bedroom light is on."
    assert said("turn it off", "one") == "The kitchen light is off."


def test_a_conversation_that_outgrows_its_context_goes_on(nano: OmniEdge) -> None:
    settings = ServeSettings(port=0, wyoming_port=0, context=192)
    with served(nano, settings) as server:
        assert server.wyoming_port is not None
        for _ in range(12):
            message = Event("transcript", {"text": "turn on the kitchen light", "context": {"conversation_id": "one"}})
            events = ask(server.wyoming_port, [message], "handled-stop")
            assert kinds(events) == ["handled-start", "handled-chunk", "handled", "handled-stop"]
            assert events[-2].data["text"] == REPLY


def test_a_text_is_spoken_whole_or_in_pieces(port: int, nano: OmniEdge) -> None:
    text = "The kitchen light is on."
    voice = SynthesizeVoice(name="Ethan")
    whole = ask(port, [Synthesize(text, voice=voice).event()], "audio-stop")
    # Clients send the text as a whole too, for servers that do not take it in pieces.
    cut = [SynthesizeChunk(text[:9]), SynthesizeChunk(text[9:])]
    parts = [SynthesizeStart(voice=voice), *cut, Synthesize(text), SynthesizeStop()]
    pieces = ask(port, [part.event() for part in parts], "synthesize-stopped")
    assert kinds(whole) == ["audio-start", "audio-chunk", "audio-stop"]
    assert kinds(pieces) == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
    session = nano.session(voice="Ethan", seed=1)
    session.push(f"Read this aloud: {text}")
    reply = session.reply(settings=ReplySettings(text=text))
    expected = sum(event.samples.size for event in reply if isinstance(event, Samples))
    for events in (whole, pieces):
        chunks = [AudioChunk.from_event(event) for event in events if event.type == "audio-chunk"]
        assert {chunk.rate for chunk in chunks} == {24_000}
        assert sum(chunk.samples for chunk in chunks) == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([AudioStop().event()], "invalid_audio"),
        ([AudioStart(rate=16_000, width=4, channels=1).event()], "invalid_audio"),
        ([Event("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, b"\0" * 400_000)], "sound_too_long"),
        ([Synthesize("hello", voice=SynthesizeVoice(name="Nobody")).event()], "invalid_value"),
        ([Event("transcript", {"text": 1})], "invalid_type"),
    ],
)
def test_what_cannot_be_used_is_said(port: int, messages: list[Event], code: str) -> None:
    (answer,) = ask(port, messages, "error")
    assert (answer.type, answer.data["code"]) == ("error", code)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b'{"type": "audio-chunk", "payload_length": 2147483648}\n', "message_too_long"),
        (b'{"type": "describe", "data_length": 99999999}\n', "message_too_long"),
        (b"x" * 100_000, "message_too_long"),
        (b"GET / HTTP/1.1\r\n\r\n", "invalid_json"),
        (b'{"type": "describe", "data": 1}\n', "invalid_type"),
        (b'{"type": "describe", "data_length": -1}\n', "invalid_value"),
    ],
)
def test_a_stranger_is_told_and_cut_off(port: int, sent: bytes, code: str) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as stranger:
        stranger.sendall(sent)
        answer = b""
        while piece := stranger.recv(1 << 16):
            answer += piece
    line, _, rest = answer.partition(b"\n")
    assert json.loads(line)["type"] == "error"
    assert json.loads(rest)["code"] == code


def test_a_client_that_goes_ends_its_reply_and_others_find_room(engine: OmniEdge) -> None:
    # The replies of this model never end by themselves.
    with served(engine, ServeSettings(port=0, wyoming_port=0, limits=Limits(sessions=1))) as server:
        assert server.wyoming_port is not None
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.wyoming_port), 5) as client:
                client.sendall(b'{"type": "transcript", "data": {"text": "hello"}}\n')
                assert b"handled-start" in client.recv(1 << 16)
                # One at a time: another one is closed at once.
                with socket.create_connection(("127.0.0.1", server.wyoming_port), 5) as other:
                    assert other.recv(1) == b""
            wait_until_free(server)


def wait_until_free(server: Served) -> None:
    """Waits until a message is answered."""
    assert server.wyoming_port is not None
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", server.wyoming_port), 5) as client:
            client.sendall(b'{"type": "ping"}\n')
            with suppress(ConnectionResetError):
                if b"pong" in client.recv(1 << 16):
                    return
        time.sleep(0.05)
    raise AssertionError("the reply of a client that has gone goes on")
