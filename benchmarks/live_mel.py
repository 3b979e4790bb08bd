"""Error of the clip-maximum rule for live sound: its log-mel blocks against those of the same clip.

    python benchmarks/live_mel.py               # ten sentences spoken by espeak-ng, with pauses and at three levels
    python benchmarks/live_mel.py --wav FILE    # a recording

Prints one line per sound: blocks, and the maximum and mean difference of the normalised mel (whose range is about 2),
over the values of all blocks and over those of the first block.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.front_end import AudioFrontEnd
from omni_edge.bundle.manifest import AudioSection
from omni_edge.media import load_audio

# The published checkpoints' front end.
SECTION = AudioSection(sample_rate=16000, n_fft=400, hop_length=160, n_mels=128, block_frames=200)
SENTENCES = (
    "Good morning. Could you tell me what the weather will be like in Lisbon tomorrow?",
    "I have three questions about the picture that I sent you a minute ago.",
    "The quick brown fox jumps over the lazy dog, and then it takes a rest.",
    "Please translate this sentence into French, and read it aloud slowly.",
    "How many kilometres are there between Berlin and Hamburg?",
    "My flight leaves at a quarter past six, so wake me at four thirty.",
    "Add milk, bread, and two boxes of tea to the shopping list.",
    "What is the name of the song that is playing in the background?",
    "Explain in two sentences why the sky is blue.",
    "Thank you very much, that was all for today.",
)
NOISE_DB = -60.0  # of full scale: a quiet room behind the voice


def spoken(
    sentences: tuple[str, ...], levels: tuple[float, ...], noise_db: float = NOISE_DB
) -> tuple[NDArray[np.float32], int]:
    """The sentences one after another at the given levels, 0.6 s apart, over faint noise."""
    parts: list[NDArray[np.float32]] = []
    rate = SECTION.sample_rate
    with tempfile.TemporaryDirectory() as folder:
        for index, sentence in enumerate(sentences):
            path = Path(folder) / f"{index}.wav"
            subprocess.run(["espeak-ng", "-v", "en-us", "-w", str(path), sentence], check=True)
            clip = load_audio(path)
            rate = clip.rate
            parts += [np.asarray(clip.samples, np.float32) * np.float32(levels[index % len(levels)])]
            parts += [np.zeros(int(0.6 * rate), np.float32)]
    sound = np.concatenate(parts)
    noise = np.random.default_rng(0).standard_normal(sound.size) * 10 ** (noise_db / 20)
    return (sound + noise).astype(np.float32), rate


def report(name: str, samples: NDArray[np.float32], rate: int) -> None:
    """One line of figures."""
    front_end = AudioFrontEnd(SECTION)
    whole = front_end.clip(samples, rate)
    live = front_end.step(samples, front_end.state(rate), end=True)
    differences = [np.abs(one.frames - other.frames) for one, other in zip(live, whole, strict=True)]
    flat = np.concatenate([block.ravel() for block in differences])
    print(
        f"{name:<28} {samples.size / rate:6.1f} s {len(whole):4d} blocks | all: max {flat.max():.3f} "
        f"mean {flat.mean():.5f} | first: max {differences[0].max():.3f} mean {differences[0].mean():.5f} | "
        f"blocks that differ {sum(block.max() > 1e-4 for block in differences)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wav", type=Path, help="a recording to measure instead of synthesised speech")
    arguments = parser.parse_args()
    if arguments.wav:
        clip = load_audio(arguments.wav)
        report(arguments.wav.name, np.asarray(clip.samples, np.float32), clip.rate)
        return
    if not shutil.which("espeak-ng"):
        parser.error("espeak-ng is not installed; install it, or give a recording with --wav")
    even, louder = (0.5,), tuple(np.geomspace(0.05, 0.5, len(SENTENCES)))
    report("even voice", *spoken(SENTENCES, even))
    report("even voice, no noise at all", *spoken(SENTENCES, even, -np.inf))
    report("getting louder, 20 dB", *spoken(SENTENCES, louder))
    report("getting softer, 20 dB", *spoken(SENTENCES, louder[::-1]))
    quiet, rate = spoken(SENTENCES[:5], (0.5,))
    silence = np.random.default_rng(1).standard_normal(5 * rate) * 10 ** (NOISE_DB / 20)
    report("5 s of room, then a voice", np.concatenate([silence.astype(np.float32), quiet]), rate)
    absolute = np.zeros(5 * rate, np.float32)
    report("5 s of digital silence first", np.concatenate([absolute, quiet]), rate)


if __name__ == "__main__":
    main()
