"""Runs exercises: every turn is pushed and answered through the runtime's public API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano.data.exercises import Exercise
from nano.data.voices import RATE
from omni_edge import AudioChunk, AudioClip, ImageFrame, OmniEdge, Sampling, Session, TurnDone, VideoClip
from omni_edge.events import Media
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings

# Three times the world's longest conversation, and its longest reply in tokens and in codec tokens.
CONTEXT = 2048
MOST_TOKENS = 64
MOST_CODEC_TOKENS = 500
GREEDY = Sampling(temperature=0.0)
# One chunk at the end: the whole utterance at once.
WHOLE = ChunkSchedule(chunk_blocks=())


@dataclass(frozen=True)
class Answer:
    """The last reply.

    Attributes:
        done: text, codec tokens and times.
        samples: float32 [n]; the speech, empty without.
        turn: the turn's number in the conversation, from 1.
    """

    done: TurnDone
    samples: NDArray[np.float32]
    turn: int


def item(part: dict[str, Any]) -> str | Media:
    """Converts a part of a message to what `Session.push` takes.

    Raises:
        ValueError: a part of an unknown type.
    """
    if part["type"] == "text":
        return str(part["text"])
    if part["type"] == "audio":
        return AudioClip(part["audio"], RATE)
    if part["type"] == "image":
        return ImageFrame(part["image"])
    if part["type"] == "video":
        sound = None if part["audio"] is None else AudioClip(part["audio"], RATE)
        return VideoClip(part["video"], part["fps"], sound)
    raise ValueError(f"no such part of a message: {part['type']!r}")


def converse(session: Session, exercise: Exercise) -> Answer:
    """Runs the exercise in a fresh session, turn by turn; the session continues from its own earlier replies.

    Open the session with the system prompt `system_prompt(exercise)`.
    """
    turns = [message["content"] for message in exercise.messages if message["role"] == "user"]
    for turn in turns[:-1]:
        _reply(session, turn)
    done, samples = _reply(session, turns[-1])
    return Answer(done, samples, len(turns))


def system_prompt(exercise: Exercise) -> str:
    """The system prompt that the exercise opens with."""
    return str(exercise.messages[0]["content"][0]["text"])


def _reply(session: Session, content: list[dict[str, Any]]) -> tuple[TurnDone, NDArray[np.float32]]:
    for part in content:
        session.push(item(part))
    samples = [np.zeros(0, np.float32)]
    done = None
    for event in session.reply(max_new_tokens=MOST_TOKENS, max_codec_tokens=MOST_CODEC_TOKENS):
        if isinstance(event, AudioChunk):
            samples.append(event.samples)
        elif isinstance(event, TurnDone):
            done = event
    assert done is not None  # a reply ends with it
    return done, np.concatenate(samples)


def vocode(
    engine: OmniEdge,
    codec: NDArray[np.int64],
    voice: str,
    seed: int | tuple[int, ...],
    solver: SolverSettings | None = None,
    chunks: ChunkSchedule | None = None,
) -> NDArray[np.float32]:
    """Vocodes codec tokens int64 [m] to samples float32 [n]; a reply with the same seed has the same noise.

    Args:
        engine: the engine with the vocoder.
        codec: codec tokens without control tokens.
        voice: the speaker's name.
        seed: seeds the noise; a session uses (its seed, the turn's number).
        solver: None: the default.
        chunks: None: as a reply is streamed; `WHOLE`: the whole utterance at once.
    """
    vocoder = engine.model.vocoder()
    samples = vocoder.step(codec, vocoder.state(voice, seed, solver, chunks), end=True)
    return np.zeros(0, np.float32) if samples is None else samples
