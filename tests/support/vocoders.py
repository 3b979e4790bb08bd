"""token2wav of a test checkpoint without the rest of a bundle: fixtures, codec tokens and decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph, prepare_graph
from omni_edge.bundle.manifest import Token2WavSection, VoiceSection
from omni_edge.vocoder.bigvgan import DEFAULT_REACH
from omni_edge.vocoder.dit import TimeTableCache
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings
from omni_edge.vocoder.vocoder import Vocoder, VocoderState
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import BigVGANConfig, DiTConfig, OmniConfig
from omni_export.models.token2wav import bigvgan, dit, dit_time, voices
from omni_quant.precision import Precision
from support.checkpoints import Case

Samples = NDArray[np.float32]
FAST = SolverSettings("euler", 2)
WHOLE = ChunkSchedule(chunk_blocks=())
WAVEFRONT = ChunkSchedule(order="wavefront")


def snr(reference: NDArray[np.float32], value: NDArray[np.float32]) -> float:
    """Signal to noise ratio in dB; infinite when both are equal."""
    assert reference.shape == value.shape
    wanted = reference.astype(np.float64)
    noise = np.sum((value - wanted) ** 2)
    return float("inf") if noise == 0 else float(10 * np.log10(np.sum(wanted**2) / noise))


def prepared_kinds(graph: Path, target: Path) -> list[str]:
    """Prepares a graph as `target` and returns the operator of each node."""
    prepare_graph(graph, target)
    return [node.op_type for node in onnx.load(target, load_external_data=False).graph.node]


@dataclass(frozen=True)
class Parts:
    """Graphs and sections of token2wav."""

    dit: Graph
    dit_time: Graph
    bigvgan: Graph
    section: Token2WavSection
    voices: VoiceSection
    constants: NDArray[np.float32]
    dit_config: DiTConfig
    bigvgan_config: BigVGANConfig

    def vocoder(self, reach: float = DEFAULT_REACH) -> Vocoder:
        tables = TimeTableCache(lambda: self.dit_time)
        return Vocoder(
            self.dit, self.bigvgan, tables, self.section, voices=self.voices, constants=self.constants, reach=reach
        )


def build_parts(checkpoint_path: Path, folder: Path, precision: Precision | None = None) -> Parts:
    """Exports token2wav of a checkpoint to `folder`."""
    precision = precision or Precision()
    checkpoint = Checkpoint(checkpoint_path)
    config = OmniConfig.parse(checkpoint.config)
    assert config.dit is not None
    assert config.bigvgan is not None
    section = voices.read(checkpoint, config).write(folder)
    dit_weights, bigvgan_weights = checkpoint.scope(dit.PREFIX), checkpoint.scope(bigvgan.PREFIX)
    return Parts(
        Graph(dit.build(dit_weights, config.dit, precision).save(folder).graph, threads=1),
        Graph(dit_time.build(dit_weights, config.dit, precision).save(folder).graph, threads=1),
        Graph(bigvgan.build(bigvgan_weights, config.bigvgan, precision).save(folder).graph, threads=1),
        dit.section(config.dit, config.bigvgan),
        section,
        np.fromfile(folder / section.file, "<f4").reshape(-1, config.dit.hidden_size),
        config.dit,
        config.bigvgan,
    )


def block_noise(noise: NDArray[np.float32], block_frames: int) -> Callable[[int], NDArray[np.float32]]:
    """A noise source of `noise`, float32 [frames, mel_dim], with zeros behind its end."""
    blocks = -(-len(noise) // block_frames)
    padded = np.zeros((blocks * block_frames, noise.shape[1]), np.float32)
    padded[: len(noise)] = noise
    return lambda index: padded[index * block_frames : (index + 1) * block_frames]


@pytest.fixture(scope="session")
def parts(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """token2wav of `case` in float32."""
    return build_parts(case.path, tmp_path_factory.mktemp(f"vocoder-{case.name}"))


@pytest.fixture(scope="session")
def vocoder(parts: Parts) -> Vocoder:
    """The vocoder of `parts`."""
    return parts.vocoder()


def codec_tokens(count: int, parts: Parts, seed: int = 0) -> NDArray[np.int64]:
    """Random codec tokens, int64 [count]."""
    return np.random.default_rng(seed).integers(0, parts.section.codec_limit, count)


def decode(
    vocoder: Vocoder, codec: NDArray[np.int64], state: VocoderState, push: int | None = None, end: bool = True
) -> Samples:
    """The samples of `codec`, float32 [n], pushed `push` tokens at a time."""
    push = push or max(1, len(codec))
    pieces = [vocoder.step(codec[start : start + push], state) for start in range(0, len(codec), push)]
    if end:
        pieces.append(vocoder.step([], state, end=True))
    return np.concatenate([np.zeros(0, np.float32), *(piece for piece in pieces if piece is not None)])


def mel_of(vocoder: Vocoder, codec: NDArray[np.int64], state: VocoderState, push: int | None = None) -> Samples:
    """The mel of `codec`, float32 [frames, mel_dim], pushed `push` tokens at a time."""
    push = push or max(1, len(codec))
    blocks = []
    for start in range(0, len(codec), push):
        block = vocoder.dit.step(codec[start : start + push], state.dit, end=start + push >= len(codec))
        while block is not None:
            blocks.append(block.final)
            block = vocoder.dit.step((), state.dit)
    return np.concatenate(blocks)
