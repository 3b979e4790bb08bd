"""What the weights of token2wav cost in speech, beside what the default solver costs: two bundles of one checkpoint.

    omni-export CHECKPOINT --out /tmp/exact --precision fp32
    omni-export CHECKPOINT --out /tmp/default
    python benchmarks/vocoder_error.py /tmp/exact /tmp/default --codec tests/data/nano/heldout.json

Whole utterances from the same codec tokens and noise, guided. A row names what differs from float32 with the default
solver (Euler with 4 evaluations); the first row has float32 on both sides, and RK4 with 36 evaluations as reference.
SNR and log-spectral distance are of the samples; means over the utterances. Without `--codec` the tokens are random.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend import kernels
from omni_edge.backend.loader import GraphLoader
from omni_edge.backend.machine import machine
from omni_edge.bundle.reader import Bundle
from omni_edge.vocoder.bigvgan import BigVganState
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings
from omni_edge.vocoder.vocoder import Vocoder
from omni_export.evaluate.metrics import log_spectral_distance, mel_distance, snr

Array = NDArray[np.float32]
Codec = NDArray[np.int64]
WHOLE = ChunkSchedule(chunk_blocks=())
DEFAULT, REFERENCE = SolverSettings(), SolverSettings.from_options("rk4")


class Speaker:
    """The vocoder of a bundle.

    Args:
        path: the bundle.
        seed: of the noise.
    """

    def __init__(self, path: Path, seed: int) -> None:
        bundle = Bundle(path)
        assert bundle.manifest.voices is not None
        self._voice, self._seed = bundle.manifest.voices.default, seed
        self.vocoder = Vocoder.load(GraphLoader(bundle))
        self.precisions = {role: bundle.manifest.graphs[role].precision for role in ("dit", "dit_time", "bigvgan")}

    def mel(self, codec: Codec, solver: SolverSettings) -> Array:
        """float32 [frames, mel_dim]."""
        state = self.vocoder.state(self._voice, self._seed, solver, WHOLE)
        block = self.vocoder.dit.step(codec, state.dit, end=True)
        assert block is not None
        return block.final

    def samples(self, mel: Array) -> Array:
        """float32 [n]."""
        return self.vocoder.bigvgan.step(mel, mel[:0], BigVganState(), end=True)


def read_utterances(file: Path) -> list[Codec]:
    """The codec tokens of an index of held-out sentences."""
    entries = json.loads(file.read_text("utf-8"))["utterances"]
    return [np.array(entry["codec"].split(), np.int64) for entry in entries]


def score(exact: Speaker, other: Speaker, codec: Codec) -> dict[str, dict[str, float]]:
    """Row -> figures of one utterance."""
    mel, own = exact.mel(codec, DEFAULT), other.mel(codec, DEFAULT)
    best = exact.mel(codec, REFERENCE)
    wanted = exact.samples(mel)

    def row(reference: Array, value: Array, wanted: Array, samples: Array) -> dict[str, float]:
        figures = {"log_spectral_distance": log_spectral_distance(wanted, samples), "snr": snr(wanted, samples)}
        if value is not reference:
            figures |= {"mel_distance": mel_distance(reference, value), "mel_snr": snr(reference, value)}
        return figures

    return {
        "Euler-4 beside RK4-36, float32": row(best, mel, exact.samples(best), wanted),
        "DiT": row(mel, own, wanted, exact.samples(own)),
        "BigVGAN": row(mel, mel, wanted, other.samples(mel)),
        "DiT and BigVGAN": row(mel, own, wanted, other.samples(own)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exact", type=Path, help="a bundle in float32")
    parser.add_argument("bundle", type=Path, help="another one of the same checkpoint")
    parser.add_argument("--codec", type=Path, help="an index of held-out sentences with their codec tokens")
    parser.add_argument("--tokens", type=int, default=96, help="of the random utterance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="JSON lines that are added to")
    arguments = parser.parse_args()
    exact, other = (Speaker(path, arguments.seed) for path in (arguments.exact, arguments.bundle))
    random = np.random.default_rng(arguments.seed)
    codecs = [random.integers(0, exact.vocoder.section.codec_limit, arguments.tokens)]
    if arguments.codec:
        codecs = read_utterances(arguments.codec)
    scores = [score(exact, other, codec) for codec in codecs]
    rows = [
        {"row": name, **{key: float(np.mean([each[name][key] for each in scores])) for key in first}}
        for name, first in scores[0].items()
    ]
    print("| | mel distance | SNR of the mel | log-spectral distance | SNR |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        mel = f"{row['mel_distance']:.2f} dB | {row['mel_snr']:.0f} dB" if "mel_snr" in row else "0 | "
        print(f"| {row['row']} | {mel} | {row['log_spectral_distance']:.3f} dB | {row['snr']:.0f} dB |")
    if arguments.results:
        head = {
            "bundle": arguments.bundle.name,
            "precision": other.precisions,
            "codec_tokens": sum(map(len, codecs)),
            "random": arguments.codec is None,
            "compiled": kernels.compiled() is not None,
            "machine": asdict(machine()),
        }
        with arguments.results.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in [head, *rows])


if __name__ == "__main__":
    main()
