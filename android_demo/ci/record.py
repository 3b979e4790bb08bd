"""Records what the Python runtime of this checkout computes, for `Replay.kt` to compare with.

    python record.py FOLDER [--resume]

FOLDER gets `trace.json` and one `.bin` file for each array, little-endian. With $OMNI_EDGE_KERNELS=0 it holds what
standard operators compute, else what the compiled operators do. `--resume`: FOLDER holds a recording and the
conversations that Kotlin saved; they are resumed here, and their replies compared with the recorded ones.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from conversations import ALWAYS, EXAMPLE, ONCE, Recorder, picture
from numpy.typing import NDArray
from trace_folder import Trace

from omni_edge import OmniEdge
from omni_edge.audio.front_end import AudioFrontEnd
from omni_edge.live.voice_detector import FRAME_SAMPLES, VoiceDetector, VoiceState, installed_file
from omni_edge.media.load import load_audio
from omni_edge.vision.image_processor import ImageProcessor
from omni_edge.vocoder.noise import seeded_noise

PICTURE_SIZES = (150, 210), (61, 333), (56, 56), (9, 5)
TEXTS = (
    "Hello, world! It's 12:30 - naïve café 🎉\n\n  tabs\tand   spaces  ",
    "你好，世界。 Ça va? don't   WON'T we'll",
    "<|im_end|> spelled You are a helpful assistant. a\r\n\r\nb 1234",
    "e\u0301 composed, a no-break\u00a0space, \u2003 an em space, \u0085 a next line, \u017f '\u017f",
)
# Samples of a resumed reply lie in -1 to 1.
SAMPLES = 1e-4


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


def voices(trace: Trace, samples: NDArray[np.float32]) -> dict[str, Any]:
    """Probabilities of speech, of frames of a sound at 16 kHz."""
    detector, state = VoiceDetector(), VoiceState()
    frames = samples[: samples.size // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    probabilities = np.array([detector.step(frame, state) for frame in frames], np.float32)
    return {
        "model": str(installed_file()),
        "samples": trace.array(frames),
        "probabilities": trace.array(probabilities),
    }


def record(trace: Trace, engine: OmniEdge) -> None:
    """Records everything."""
    speech = load_audio(EXAMPLE)
    slow = np.interp(np.arange(44100) / 44100, np.arange(len(speech.samples)) / speech.rate, speech.samples)
    recorder = Recorder(trace, engine)
    plans = ALWAYS if os.environ.get("OMNI_EDGE_KERNELS") == "0" else ALWAYS + ONCE
    trace.write(
        {
            "tokens": [[text, engine.model.tokenizer.encode(text)] for text in TEXTS],
            "random": random_streams(trace),
            "sounds": [
                front_end(trace, engine, np.asarray(speech.samples, np.float32), speech.rate),
                front_end(trace, engine, slow.astype(np.float32), 44100),
            ],
            "pictures": [patches(trace, engine, picture(*size, 1)) for size in PICTURE_SIZES],
            "voices": voices(trace, np.asarray(speech.samples, np.float32)),
            "conversations": [recorder.conversation(plan) for plan in plans],
        }
    )


def resume(trace: Trace, engine: OmniEdge) -> None:
    """Continues the conversations that Kotlin saved.

    Raises:
        AssertionError: a reply is another one.
    """
    recorder = Recorder(trace, engine)
    turns = [turn for conversation in trace.content()["conversations"] for turn in conversation["turns"]]
    for turn in turns:
        saved = next((number for number, said in enumerate(turn["steps"]) if "save" in said), None)
        if saved is None:
            continue
        session = engine.resume(trace.folder / f"kotlin-{turn['steps'][saved]['save']}")
        for said in turn["steps"][saved + 1 :]:
            recorder.step(session, said)
        again = recorder.reply(session, turn["codec_limit"], turn["cancel_after"], turn["chosen"])
        worst = np.abs(trace.read(again.pop("samples")) - trace.read(turn["samples"])).max()
        differ = {key: (value, turn[key]) for key, value in again.items() if value != turn[key]}
        assert not differ, differ
        assert worst <= SAMPLES, worst
        tokens = f"{len(again['tokens'])} + {len(again['codec'])} tokens equal"
        print(f"ok   Kotlin's file, resumed by Python: {tokens}, samples within {worst:.2g}")


def main() -> None:
    """Does what the command says."""
    trace = Trace(Path(sys.argv[1]))
    engine = OmniEdge.load(threads=1)
    if sys.argv[2:] == ["--resume"]:
        resume(trace, engine)
    else:
        record(trace, engine)


if __name__ == "__main__":
    main()
