"""The conversations that `record.py` records: what happens in each turn, and the replies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trace_folder import Trace

from omni_edge import (
    AudioChunk,
    AudioClip,
    ImageFrame,
    OmniEdge,
    PcmBlock,
    ReplySettings,
    Sampling,
    Session,
    TextDelta,
    VideoClip,
)
from omni_edge.conversation.snapshot import SessionSnapshot
from omni_edge.media.load import load_audio
from omni_edge.vocoder.schedule import ChunkSchedule

EXAMPLE = Path(__file__).parents[2] / "examples" / "turn-on-the-kitchen-light.wav"
GREEDY = Sampling(temperature=0)
# Samples of a live sound's pieces.
PIECE = 1600

Step = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """What happens before a reply, and what is different in it.

    Attributes:
        steps: see `Recorder.step`.
        codec: codec tokens at most; None: the bundle's default.
        cancel_after: pieces of text after which the session is cancelled.
        chosen: fields of `ReplySettings`.
    """

    steps: tuple[Step, ...]
    codec: int | None = None
    cancel_after: int | None = None
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A conversation.

    Attributes:
        name: says what it shows.
        settings: fields of `SessionSettings`; `greedy` and `wavefront` stand for objects.
        turns: its turns.
    """

    name: str
    settings: dict[str, Any]
    turns: tuple[Turn, ...]


def text(content: str) -> Step:
    """Pushes text."""
    return {"text": content}


CLIP, LIVE, PICTURE, VIDEO = ({name: True} for name in ("clip", "live", "picture", "video"))
FIRST_HALF, SECOND_HALF = {"live": True, "half": 0}, {"live": True, "half": 1}

ALWAYS = (
    Plan("text, no speech", {"speech": False, "seed": 1}, (Turn((text("what is three plus four"),)),)),
    Plan(
        "a spoken question",
        {"voice": "Chelsie", "seed": 7, "greedy": True},
        (Turn((CLIP,)), Turn((text("how much is three plus four"),))),
    ),
    Plan("drawn tokens, live sound", {"voice": "Ethan", "seed": (1 << 40) + 5}, (Turn((LIVE,)), Turn((CLIP,)))),
    Plan("a picture", {"seed": 3, "greedy": True}, (Turn((PICTURE, text("what do you see")), codec=60),)),
    Plan("a video with sound", {"seed": 3, "speech": False}, (Turn((VIDEO, text("what is it"))),)),
    Plan(
        "cancelled, then continued",
        {"voice": "Chelsie", "seed": 2, "greedy": True},
        (Turn((CLIP,), cancel_after=3), Turn((text("once more please"),), codec=40)),
    ),
    Plan(
        "chunks equal to the whole",
        {"voice": "Chelsie", "seed": 4, "greedy": True, "wavefront": True},
        (Turn((CLIP,)),),
    ),
    Plan("a full context", {"speech": False, "seed": 5, "context": 75}, (Turn((text("count from one to ten"),)),)),
)
# What does not depend on operators is recorded with the compiled ones alone.
ONCE = (
    Plan(
        "given, stopped and unspoken texts",
        {"voice": "Chelsie", "seed": 9, "greedy": True},
        (
            Turn(
                (text("count"),),
                chosen={"text": "one two three four five six", "stop": ("five",), "unspoken": ("three",)},
            ),
            Turn((text("what is three plus four"),), chosen={"speech": False, "seed": 4, "stop": (" is",)}),
            Turn(({"reply": "the light is on"}, text("what did you say")), codec=30),
        ),
    ),
    Plan(
        "turns that left",
        {"voice": "Ethan", "seed": 11, "context": 220},
        (
            Turn(({"keep_media": True}, text("hello")), codec=20),
            Turn((CLIP, text("hello again")), codec=20),
            Turn((text("what is three plus four"), {"evict": [150, 200]}), codec=40),
            Turn(({"evict": [0, 200]}, PICTURE, text("what do you see")), codec=20),
        ),
    ),
    Plan(
        "back to a place in live sound",
        {"voice": "Chelsie", "seed": 12},
        (
            Turn((FIRST_HALF, {"snapshot": True}, SECOND_HALF), codec=20),
            Turn(({"restore": True}, text("never mind")), codec=20),
            Turn(({"restore": True}, SECOND_HALF), codec=20),
        ),
    ),
    Plan(
        "saved and resumed",
        {"voice": "Ethan", "seed": 13},
        (
            Turn((CLIP,), codec=20),
            Turn((text("once more"), {"save": "conversation.omni"}, text(" please")), codec=40),
        ),
    ),
)


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture of gradients and noise, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 127 + 90 * np.sin(rows / 9.0 + seed)[..., None] * np.cos(columns[..., None] / np.array([5.0, 7.0, 11.0]))
    noise = np.random.default_rng(seed).integers(-30, 30, (height, width, 3))
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


class Recorder:
    """Holds conversations and records them."""

    def __init__(self, trace: Trace, engine: OmniEdge) -> None:
        self._trace, self._engine = trace, engine
        self._speech = load_audio(EXAMPLE)
        self._shown, self._frames = picture(150, 210, 1), np.stack([picture(90, 120, seed) for seed in range(4)])
        self._sound = trace.array(self._speech.samples)
        self._picture, self._video = trace.array(self._shown), trace.array(self._frames)
        self._snapshot: SessionSnapshot | None = None

    def conversation(self, plan: Plan) -> dict[str, Any]:
        """Settings, what happens, and the replies."""
        fields = dict(plan.settings)
        if fields.pop("greedy", False):
            fields |= {"sampling": GREEDY, "talker_sampling": GREEDY}
        if fields.pop("wavefront", False):
            fields |= {"chunks": ChunkSchedule(order="wavefront")}
        session = self._engine.session(**fields)
        turns = []
        for turn in plan.turns:
            steps = [self.step(session, said) for said in turn.steps]
            turns.append({"steps": steps, **self.reply(session, turn.codec, turn.cancel_after, turn.chosen)})
        return {"name": plan.name, "settings": plan.settings, "turns": turns}

    def step(self, session: Session, said: Step) -> Step:
        """Does one thing to a conversation; returns it with everything that `Replay.kt` needs to do the same."""
        speech, rate = self._speech, {"rate": self._speech.rate}
        match said:
            case {"text": content}:
                session.push(content)
            case {"clip": _}:
                session.push(AudioClip(speech.samples, speech.rate))
                return {"clip": self._sound, **rate}
            case {"live": _}:
                middle, size = len(speech.samples) // 2, len(speech.samples)
                start, stop = {None: (0, size), 0: (0, middle), 1: (middle, size)}[said.get("half")]
                for first in range(start, stop, PIECE):
                    session.push(PcmBlock(speech.samples[first : min(stop, first + PIECE)], speech.rate))
                return {"live": self._sound, **rate, "piece": PIECE, "start": start, "stop": stop}
            case {"picture": _}:
                session.push(ImageFrame(self._shown))
                return {"picture": self._picture}
            case {"video": _}:
                session.push(VideoClip(self._frames, 2.0, AudioClip(speech.samples, speech.rate)))
                return {"video": self._video, "fps": 2.0, "clip": self._sound, **rate}
            case {"reply": content}:
                session.push_reply(content)
            case {"keep_media": _}:
                session.keep_media()
            case {"evict": [keep, last]}:
                evicted = session.evict(keep, last)
                assert evicted is not None
                return {**said, "evicted": [evicted.turns, evicted.positions]}
            case {"snapshot": _}:
                self._snapshot = session.snapshot()
            case {"restore": _}:
                assert self._snapshot is not None
                session.restore(self._snapshot)
            case {"save": name}:
                session.save(self._trace.folder / name)
        return said

    def reply(
        self, session: Session, codec: int | None, cancel_after: int | None, chosen: dict[str, Any]
    ) -> dict[str, Any]:
        """One reply; the arguments are those of a `Turn`."""
        pieces, texts = [np.zeros(0, np.float32)], 0
        for event in session.reply(max_codec_tokens=codec, settings=ReplySettings(**chosen)):
            if isinstance(event, AudioChunk):
                pieces.append(event.samples)
            elif isinstance(event, TextDelta):
                texts += 1
                if texts == cancel_after:
                    session.cancel()
            else:
                done = event
        return {
            "codec_limit": codec,
            "cancel_after": cancel_after,
            "chosen": chosen,
            "text": done.text,
            "tokens": list(done.token_ids),
            "codec": list(done.codec_tokens),
            "prompt_tokens": done.prompt_tokens,
            "finish": done.finish_reason.upper(),
            "samples": self._trace.array(np.concatenate(pieces)),
        }
