"""Records what the Python runtime of this checkout computes, for `Replay.kt` to compare with.

    python record.py FOLDER

FOLDER gets `trace.json` and one `.bin` file for each array, little-endian. With $OMNI_EDGE_KERNELS=0 it holds what
standard operators compute, else what the compiled operators do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge import AudioChunk, AudioClip, ImageFrame, OmniEdge, PcmBlock, Sampling, Session, TextDelta, VideoClip
from omni_edge.audio.front_end import AudioFrontEnd
from omni_edge.media.load import load_audio
from omni_edge.vision.image_processor import ImageProcessor
from omni_edge.vocoder.noise import seeded_noise
from omni_edge.vocoder.schedule import ChunkSchedule

EXAMPLE = Path(__file__).parents[2] / "examples" / "turn-on-the-kitchen-light.wav"
GREEDY = Sampling(temperature=0)
PICTURE_SIZES = (150, 210), (61, 333), (56, 56), (9, 5)
TEXTS = (
    "Hello, world! It's 12:30 - naïve café 🎉\n\n  tabs\tand   spaces  ",
    "你好，世界。 Ça va? don't   WON'T we'll",
    "<|im_end|> spelled You are a helpful assistant. a\r\n\r\nb 1234",
    "e\u0301 composed, a no-break\u00a0space, \u2003 an em space, \u0085 a next line, \u017f '\u017f",
)


class Trace:
    """The arrays and the description of one recording."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays = 0
        folder.mkdir(parents=True, exist_ok=True)

    def array(self, values: NDArray[Any]) -> dict[str, Any]:
        """Writes an array; returns its description."""
        name = f"{self._arrays}.bin"
        self._arrays += 1
        array = np.ascontiguousarray(values)
        (self._folder / name).write_bytes(array.tobytes())
        return {"file": name, "dtype": array.dtype.name, "shape": list(array.shape)}

    def close(self, content: dict[str, Any]) -> None:
        """Writes the description of everything."""
        (self._folder / "trace.json").write_text(json.dumps(content), "utf-8")


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture of gradients and noise, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 127 + 90 * np.sin(rows / 9.0 + seed)[..., None] * np.cos(columns[..., None] / np.array([5.0, 7.0, 11.0]))
    noise = np.random.default_rng(seed).integers(-30, 30, (height, width, 3))
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def front_end(trace: Trace, engine: OmniEdge, samples: NDArray[np.float32], rate: int) -> dict[str, Any]:
    """Mel blocks of a clip, and of the same samples as a live sound in pieces of a tenth of a second."""
    processor = AudioFrontEnd(engine.manifest.audio)
    state, live = processor.state(rate), []
    for start in range(0, len(samples), rate // 10):
        live += processor.step(samples[start : start + rate // 10], state)
    live += processor.step(samples[:0], state, end=True)
    return {
        "rate": rate,
        "samples": trace.array(samples),
        "clip": [trace.array(block.frames) for block in processor.clip(samples, rate)],
        "live": [trace.array(block.frames) for block in live],
    }


def patches(trace: Trace, engine: OmniEdge, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Patches of a picture."""
    made = ImageProcessor(engine.manifest.vision).image(pixels)
    return {"pixels": trace.array(pixels), "patches": trace.array(made.patches), "grid": list(made.grid)}


def random_streams(trace: Trace) -> dict[str, Any]:
    """Draws of the generators behind the sampler and the noise, for seeds of one word and of two."""
    seeds = [[0, 0, 1], [7, 1, 2], [(1 << 62) + 12345, 0, 3]]
    draws = [np.random.default_rng(tuple(seed)).random(100) for seed in seeds]
    noise = [seeded_noise(tuple(seed), 500, 80)(3) for seed in seeds]
    return {"seeds": seeds, "draws": [trace.array(d) for d in draws], "noise": [trace.array(n) for n in noise]}


def reply(trace: Trace, session: Session, cancel_after: int | None = None, **limits: int) -> dict[str, Any]:
    """One reply; `cancel_after` text pieces the session is cancelled."""
    pieces, text = [np.zeros(0, np.float32)], 0
    for event in session.reply(**limits):
        if isinstance(event, AudioChunk):
            pieces.append(event.samples)
        elif isinstance(event, TextDelta):
            text += 1
            if text == cancel_after:
                session.cancel()
        else:
            done = event
    return {
        "limits": limits,
        "cancel_after": cancel_after,
        "text": done.text,
        "tokens": list(done.token_ids),
        "codec": list(done.codec_tokens),
        "prompt_tokens": done.prompt_tokens,
        "finish": done.finish_reason.upper(),
        "samples": trace.array(np.concatenate(pieces)),
    }


def conversations(trace: Trace, engine: OmniEdge) -> list[dict[str, Any]]:
    """Conversations by name: settings, what is pushed, and the replies."""
    speech = load_audio(EXAMPLE)
    sound = trace.array(speech.samples)
    shown, frames = picture(150, 210, 1), np.stack([picture(90, 120, seed) for seed in range(4)])
    shown_array, frames_array = trace.array(shown), trace.array(frames)

    def text(content: str) -> tuple[dict[str, Any], Callable[[Session], None]]:
        return {"text": content}, lambda session: session.push(content)

    def clip() -> tuple[dict[str, Any], Callable[[Session], None]]:
        return {"clip": sound, "rate": speech.rate}, lambda session: session.push(
            AudioClip(speech.samples, speech.rate)
        )

    def live() -> tuple[dict[str, Any], Callable[[Session], None]]:
        def push(session: Session) -> None:
            for start in range(0, len(speech.samples), 1600):
                session.push(PcmBlock(speech.samples[start : start + 1600], speech.rate))

        return {"live": sound, "rate": speech.rate, "step": 1600}, push

    def image() -> tuple[dict[str, Any], Callable[[Session], None]]:
        return {"picture": shown_array}, lambda session: session.push(ImageFrame(shown))

    def video() -> tuple[dict[str, Any], Callable[[Session], None]]:
        clip = VideoClip(frames, 2.0, AudioClip(speech.samples, speech.rate))
        return {"video": frames_array, "fps": 2.0, "clip": sound, "rate": speech.rate}, lambda session: session.push(
            clip
        )

    plans: list[tuple[str, dict[str, Any], list[tuple[list[Any], dict[str, Any]]]]] = [
        ("text, no speech", {"speech": False, "seed": 1}, [([text("what is three plus four")], {})]),
        (
            "a spoken question",
            {"voice": "Chelsie", "seed": 7, "greedy": True},
            [([clip()], {}), ([text("how much is three plus four")], {})],
        ),
        ("drawn tokens, live sound", {"voice": "Ethan", "seed": (1 << 40) + 5}, [([live()], {}), ([clip()], {})]),
        ("a picture", {"seed": 3, "greedy": True}, [([image(), text("what do you see")], {"max_codec_tokens": 60})]),
        ("a video with sound", {"seed": 3, "speech": False}, [([video(), text("what is it")], {})]),
        (
            "cancelled, then continued",
            {"voice": "Chelsie", "seed": 2, "greedy": True},
            [([clip()], {"cancel_after": 3}), ([text("once more please")], {"max_codec_tokens": 40})],
        ),
        (
            "chunks equal to the whole",
            {"voice": "Chelsie", "seed": 4, "greedy": True, "wavefront": True},
            [([clip()], {})],
        ),
        ("a full context", {"speech": False, "seed": 5, "context": 75}, [([text("count from one to ten")], {})]),
    ]
    recorded = []
    for name, settings, turns in plans:
        fields = dict(settings)
        if fields.pop("greedy", False):
            fields |= {"sampling": GREEDY, "talker_sampling": GREEDY}
        if fields.pop("wavefront", False):
            fields |= {"chunks": ChunkSchedule(order="wavefront")}
        session = engine.session(**fields)
        replies = []
        for pushes, arguments in turns:
            for _, push in pushes:
                push(session)
            replies.append({"pushes": [said for said, _ in pushes], **reply(trace, session, **arguments)})
        recorded.append({"name": name, "settings": settings, "turns": replies})
    return recorded


def main() -> None:
    """Records everything into the folder that the command names."""
    trace = Trace(Path(sys.argv[1]))
    engine = OmniEdge.load(threads=1)
    speech = load_audio(EXAMPLE)
    slow = np.interp(np.arange(44100) / 44100, np.arange(len(speech.samples)) / speech.rate, speech.samples)
    trace.close(
        {
            "tokens": [[text, engine.model.tokenizer.encode(text)] for text in TEXTS],
            "random": random_streams(trace),
            "sounds": [
                front_end(trace, engine, np.asarray(speech.samples, np.float32), speech.rate),
                front_end(trace, engine, slow.astype(np.float32), 44100),
            ],
            "pictures": [
                patches(trace, engine, picture(*size, 1)) for size in ((150, 210), (61, 333), (56, 56), (9, 5))
            ],
            "conversations": conversations(trace, engine),
        }
    )


if __name__ == "__main__":
    main()
