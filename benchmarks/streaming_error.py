"""Error of streamed speech against the whole utterance at once: SNR by solver, order and look-ahead.

    python benchmarks/streaming_error.py BUNDLE [--tokens 600] [--seed 0]

Codec tokens are random and the noise is the same in all rows, so rows of a solver differ in their chunks alone.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.loader import GraphLoader
from omni_edge.bundle.reader import Bundle
from omni_edge.vocoder.bigvgan import BigVganState
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings
from omni_edge.vocoder.vocoder import Vocoder

Array = NDArray[np.float32]

SOLVERS = (
    SolverSettings("euler", 4, guidance=0.5),
    SolverSettings("euler", 4, guidance=0.0),
    SolverSettings("ab2", 4, guidance=0.5),
    SolverSettings("euler", 8, guidance=0.5),
)
CHUNKS = (
    ChunkSchedule(1, (1,)),
    ChunkSchedule(1, (1, 2, 4)),
    ChunkSchedule(2, (1,)),
    ChunkSchedule(3, (1,)),
    ChunkSchedule(chunk_blocks=(1,), order="wavefront"),
    ChunkSchedule(order="wavefront"),
)
REACHES = (0.3, 0.4, 0.5, 0.6, 0.7, 1.0)


def snr(reference: Array, value: Array) -> float:
    """Signal to noise ratio in dB."""
    wanted = reference.astype(np.float64)
    noise = float(np.sum((value - wanted) ** 2))
    return 10 * math.log10(float(np.sum(wanted**2)) / noise) if noise else math.inf


def lowest(reference: Array, value: Array, frames: int) -> float:
    """The lowest SNR of all full blocks of `frames`, in dB."""
    starts = range(0, len(reference) - frames + 1, frames)
    return min(snr(reference[start : start + frames], value[start : start + frames]) for start in starts)


def mel_of(
    vocoder: Vocoder, codec: NDArray[np.int64], voice: str, solver: SolverSettings, chunks: ChunkSchedule
) -> Array:
    """The mel of a stream, float32 [frames, mel_dim]."""
    state = vocoder.state(voice, 0, solver, chunks).dit
    blocks = []
    block = vocoder.dit.step(codec, state, end=True)
    while block is not None:
        blocks.append(block.final)
        block = vocoder.dit.step((), state)
    return np.concatenate(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=600, help="codec tokens of the utterance")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    bundle = Bundle(arguments.bundle)
    vocoder = Vocoder.load(GraphLoader(bundle))
    assert bundle.manifest.voices is not None
    voice = bundle.manifest.voices.default
    limit = vocoder.section.codec_limit
    codec = np.random.default_rng(arguments.seed).integers(0, limit, arguments.tokens)

    print("| solver | order | look-ahead | blocks per chunk | mel SNR, dB | its lowest block | waveform SNR, dB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for solver in SOLVERS:
        name = f"{solver.method}-{solver.evaluations}{', guided' if solver.guidance else ''}"
        whole = ChunkSchedule(chunk_blocks=())
        mel = mel_of(vocoder, codec, voice, solver, whole)
        samples = vocoder.step(codec, vocoder.state(voice, 0, solver, whole), end=True)
        assert samples is not None
        for chunks in CHUNKS:
            stream = vocoder.step(codec, vocoder.state(voice, 0, solver, chunks), end=True)
            assert stream is not None
            streamed = mel_of(vocoder, codec, voice, solver, chunks)
            of_mel = f"{snr(mel, streamed):.1f} | {lowest(mel, streamed, vocoder.section.block_frames):.1f}"
            cut = f"{vocoder.dit.look_ahead(chunks, solver)} | {', '.join(map(str, chunks.chunk_blocks))}"
            print(f"| {name} | {chunks.order} | {cut} | {of_mel} | {snr(samples, stream):.1f} |")

    print("\n| share of BigVGAN's reach | frames to each side | waveform SNR, dB |")
    print("| --- | --- | --- |")
    mel = mel_of(vocoder, codec, voice, SOLVERS[0], ChunkSchedule(chunk_blocks=()))
    samples = vocoder.bigvgan.step(mel, mel[:0], BigVganState(), end=True)
    step = vocoder.section.block_frames
    for reach in REACHES:
        room = Vocoder.load(GraphLoader(bundle), reach=reach).bigvgan
        state = BigVganState()
        pieces = [
            room.step(mel[start : start + step], mel[start + step :], state, start + step >= len(mel))
            for start in range(0, len(mel), step)
        ]
        print(f"| {reach} | {room.look_ahead_frames} | {snr(samples, np.concatenate(pieces)):.1f} |")


if __name__ == "__main__":
    main()
