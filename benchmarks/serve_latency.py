"""What the server adds to the first sound: the same turns over its WebSocket and in this process."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_process import KEY, ServerProcess
from websockets.sync.client import ClientConnection, connect

from omni_edge import AudioChunk, AudioClip, OmniEdge
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.media import load_audio
from omni_edge.serve.realtime.session_config import PCM_RATE
from omni_edge.serve.sound_format import from_pcm16, to_pcm16

EXAMPLE = Path(__file__).parents[1] / "examples" / "turn-on-the-kitchen-light.wav"
# Two turns of one conversation; the second finds the first in the caches.
TEXTS = ("turn on the kitchen light", "turn it off")


@dataclass(frozen=True)
class Turn:
    """A turn of the user.

    Attributes:
        name: in results.
        text: what is typed; None: it is spoken.
        sound: 16-bit PCM at `PCM_RATE`, where it is spoken.
    """

    name: str
    text: str | None = None
    sound: bytes = b""

    @property
    def content(self) -> dict[str, str]:
        """For the server."""
        if self.text is not None:
            return {"type": "input_text", "text": self.text}
        return {"type": "input_audio", "audio": base64.b64encode(self.sound).decode()}


def conversations() -> list[list[Turn]]:
    """A typed conversation, and a spoken question."""
    clip = load_audio(EXAMPLE)
    samples = resampler(clip.rate, PCM_RATE).step(clip.samples, ResampleState(), end=True)
    assert samples is not None
    return [
        [Turn("first turn, typed", TEXTS[0]), Turn("second turn, typed", TEXTS[1])],
        [Turn("first turn, spoken", sound=to_pcm16(samples))],
    ]


def served_seconds(server: ServerProcess, turns: Sequence[Turn]) -> list[float]:
    """Seconds from each turn to its first sound over the WebSocket, in a new conversation."""
    with open_session(server) as session:
        return [ask(session, turn.content) for turn in turns]


@contextmanager
def open_session(server: ServerProcess) -> Iterator[ClientConnection]:
    """A new conversation."""
    address = f"ws://127.0.0.1:{server.port}/v1/realtime"
    with connect(address, additional_headers={"Authorization": f"Bearer {KEY}"}, max_size=None) as session:
        until(session, "session.created")
        yield session


def ask(session: ClientConnection, content: dict[str, str]) -> float:
    """Seconds to the first sound of a turn, whose reply is then received to its end."""
    item = {"type": "message", "role": "user", "content": [content]}
    began = time.perf_counter()
    session.send(json.dumps({"type": "conversation.item.create", "item": item}))
    session.send(json.dumps({"type": "response.create"}))
    until(session, "response.output_audio.delta")
    seconds = time.perf_counter() - began
    until(session, "response.done")
    return seconds


def until(session: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of a type."""
    while True:
        event: dict[str, Any] = json.loads(session.recv(120))
        if event["type"] == kind:
            return event
        if event["type"] == "error" or event["type"] == "response.done":
            raise SystemExit(f"The server answers {event}")


def in_process_seconds(engine: OmniEdge, turns: Sequence[Turn]) -> list[float]:
    """The same without a server: a new session, and then its turns."""
    found: list[float] = []
    session = None
    for turn in turns:
        began = time.perf_counter()
        session = session or engine.session()
        if turn.text is not None:
            session.push(turn.text)
        else:
            session.push(AudioClip(from_pcm16(turn.sound), PCM_RATE))
        first = None
        for event in session.reply():
            if first is None and isinstance(event, AudioChunk):
                first = time.perf_counter() - began
        assert first is not None
        found.append(first)
    return found
