"""How long a user waits: a spoken question in real time, to the first text and the first playable sample.

    python benchmarks/live.py [--model BUNDLE] [--seconds 2 5 15 40] [--runs 10] [--results FILE.jsonl]

A source releases frames of 20 ms at their real time, never early. A virtual loudspeaker drains at 1x and counts
underruns. t0 is the last sample of the speech, so the silence that ends the turn is part of every figure. The question
is a clip, repeated and cut to the wanted length. No run is dropped; each is one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge import AudioChunk, Duplex, Hearing, OmniEdge, PcmBlock, TextDelta, TurnDone, TurnSettings, VoiceDetector
from omni_edge.backend.machine import machine, memory
from omni_edge.live.events import SpeechStopped
from omni_edge.live.virtual_sink import VirtualSink
from omni_edge.live.voice_detector import VOICE_RATE
from omni_edge.media.wav import read_wave

CLIP = Path(__file__).parents[1] / "tests" / "data" / "question.wav"
FRAME_SECONDS = 0.02
FRAME = round(FRAME_SECONDS * VOICE_RATE)
# The speech of a loud frame; the clip ends with silence, which must not count as speech.
SPEECH_LEVEL = 0.01
LONGEST_WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class Run:
    """One question; times in seconds after the last sample of the speech, None: it never came.

    Attributes:
        question: length of the speech (s).
        endpoint: until the turn was over.
        first_text, first_sound: until the first text token, and the first playable sample.
        gap_p50, gap_max: seconds between the arrivals of chunks of speech.
        underruns, gap: gaps in the playback, and their length together (s).
        speech: length of the reply (s).
        rtf: compute seconds of the reply per second of speech.
        peak_rss: bytes.
    """

    question: float
    endpoint: float | None
    first_text: float | None
    first_sound: float | None
    gap_p50: float | None
    gap_max: float | None
    underruns: int
    gap: float
    speech: float
    rtf: float | None
    peak_rss: int


def question(seconds: float) -> NDArray[np.float32]:
    """Speech that lasts as long, its last frame loud; float32 [n] at 16 kHz."""
    clip, rate = read_wave(CLIP, 60)
    assert rate == VOICE_RATE
    speech = np.flatnonzero(np.abs(clip) > SPEECH_LEVEL)
    clip = clip[speech[0] : speech[-1] + 1]
    # Aligned to the end: whatever the length, the last words are the same.
    count = round(seconds * VOICE_RATE)
    return np.tile(clip, -(-count // clip.size))[-count:]


class Room(threading.Thread):
    """The microphone and the loudspeaker, in real time."""

    def __init__(self, duplex: Duplex, sink: VirtualSink, spoken: NDArray[np.float32]) -> None:
        super().__init__(daemon=True)
        self._duplex, self._sink, self._spoken = duplex, sink, spoken
        self.ended = threading.Event()
        self.speech_ended = 0.0

    def run(self) -> None:
        began = time.perf_counter()
        self.speech_ended = began + self._spoken.size / VOICE_RATE
        frames = 0
        noise = np.random.default_rng(0)
        while not self.ended.is_set():
            frames += 1
            # The frame exists when its last sample was recorded.
            time.sleep(max(0.0, began + frames * FRAME_SECONDS - time.perf_counter()))
            block = self._spoken[(frames - 1) * FRAME : frames * FRAME]
            block = np.concatenate([block, np.zeros(FRAME - block.size, np.float32)])
            self._sink.advance(round(FRAME_SECONDS * self._sink.rate))
            hiss = (1e-3 * noise.standard_normal(FRAME)).astype(np.float32)
            self._duplex.push(PcmBlock(block + hiss, VOICE_RATE))


def measure(engine: OmniEdge, detector: VoiceDetector, seconds: float, limits: dict[str, int]) -> Run:
    """Asks one question of a fresh conversation."""
    token2wav = engine.manifest.token2wav
    assert token2wav is not None
    sink = VirtualSink(token2wav.sample_rate)
    turns = TurnSettings()
    duplex = Duplex(engine.session(seed=0), Hearing(detector, turns), sink=sink, **limits)
    room = Room(duplex, sink, question(seconds))
    first: dict[type, float] = {}
    chunks: list[float] = []
    done: TurnDone | None = None
    room.start()
    for event in duplex.events():
        now = time.perf_counter()
        first.setdefault(type(event), now)
        if isinstance(event, AudioChunk):
            chunks.append(now)
        elif isinstance(event, TurnDone):
            done = event
            break
    while duplex.answering and time.perf_counter() - room.speech_ended < LONGEST_WAIT_SECONDS:
        time.sleep(FRAME_SECONDS)
    room.ended.set()
    room.join()
    gaps = np.diff(chunks)

    def after(kind: type) -> float | None:
        return first[kind] - room.speech_ended if kind in first else None

    return Run(
        question=seconds,
        endpoint=after(SpeechStopped),
        first_text=after(TextDelta),
        first_sound=after(AudioChunk),
        gap_p50=float(np.median(gaps)) if gaps.size else None,
        gap_max=float(gaps.max()) if gaps.size else None,
        underruns=sink.underruns,
        gap=sink.gap_samples / sink.rate,
        speech=sink.played / sink.rate,
        rtf=done.metrics.rtf if done is not None else None,
        peak_rss=memory().peak,
    )


def row(runs: list[Run]) -> str:
    """A line of the table: medians, and the slowest where it matters."""

    def figure(values: list[float | None], pick: Any = np.median) -> str:
        present = [value for value in values if value is not None]
        return f"{pick(present):.2f}" if present else "-"

    sounds = [run.first_sound for run in runs]
    cells = [
        f"{runs[0].question:g}",
        str(len(runs)),
        figure([run.endpoint for run in runs]),
        figure([run.first_text for run in runs]),
        figure(sounds),
        figure(sounds, lambda values: np.percentile(values, 95)),
        figure([run.rtf for run in runs]),
        str(sum(run.underruns for run in runs)),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="the bundle; default: the built-in model")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2, 5, 15, 40], help="lengths of the question")
    parser.add_argument("--runs", type=int, default=10, help="questions of each length, after one that warms up")
    parser.add_argument("--threads", type=int, help="cores to use; default: all")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--max-codec-tokens", type=int, default=200)
    parser.add_argument("--results", type=Path, help="JSON lines: the machine and the command, then every run")
    options = parser.parse_args()
    engine = OmniEdge.load(options.model, threads=options.threads)
    detector = VoiceDetector()
    limits = {"max_new_tokens": options.max_new_tokens, "max_codec_tokens": options.max_codec_tokens}
    lines: list[dict[str, Any]] = [{"command": " ".join(sys.argv[1:]), "machine": asdict(machine())}]
    print("| question, s | runs | end of turn, s | first text, s | first sound, s | 95 %, s | RTF | underruns |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for seconds in options.seconds:
        warm_up, *runs = [measure(engine, detector, seconds, limits) for _ in range(options.runs + 1)]
        lines += [{"warm_up": True, **asdict(warm_up)}, *({"warm_up": False, **asdict(run)} for run in runs)]
        print(row(runs), flush=True)
    if options.results:
        options.results.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
