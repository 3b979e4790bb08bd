"""Turns of every kind, pushed into a session, and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from omni_edge import AudioChunk, AudioClip, ImageFrame, Session, TurnDone, VideoClip

RATE = 16_000


def hum(seconds: float) -> np.ndarray:
    """A quiet sine, float32 [n] at `RATE`."""
    return (0.2 * np.sin(np.arange(int(seconds * RATE)) / 9)).astype(np.float32)


def waves(height: int, width: int) -> np.ndarray:
    """Coloured waves, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([np.sin(x / 9 + y / 5 * k) * 127 + 128 for k in range(3)], axis=-1).astype(np.uint8)


PUSHED: dict[str, list[Any]] = {
    "text": ["What is the time?"],
    "sound": [AudioClip(hum(2.3), RATE), "What was that?"],
    "picture": [ImageFrame(waves(60, 84)), "What is it?"],
    "video": [VideoClip(np.stack([waves(56, 84)] * 6), 2.0), "What moves?"],
    "video with sound": [VideoClip(np.stack([waves(56, 84)] * 6), 2.0, AudioClip(hum(3), RATE)), "What moves?"],
}


def push(session: Session, name: str) -> None:
    """Pushes a turn of `PUSHED`."""
    for item in PUSHED[name]:
        session.push(item)


def answer(session: Session, tokens: int) -> tuple[TurnDone, np.ndarray]:
    """The reply's last event, and its samples, float32 [n]."""
    events = list(session.reply(max_new_tokens=tokens, max_codec_tokens=30))
    samples = [event.samples for event in events if isinstance(event, AudioChunk)]
    done = events[-1]
    assert isinstance(done, TurnDone)
    return done, np.concatenate([np.zeros(0, np.float32), *samples])
