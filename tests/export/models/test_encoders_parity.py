"""The encoders' graphs against the reference's towers, from the checkpoint to embeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.backend.graph import Graph
from omni_edge.vision.encoder import VisionEncoder
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.models import audio_encoder, vision_encoder
from omni_quant.precision import Kind, Precision
from support.checkpoints import Case

FP32 = Precision()
# Relative RMS error over random weights of width 32 to 48; measured: INT8 1.1-2.0 %, INT4 14-23 %.
INT8_BOUND = 0.03
INT4_BOUND = 0.3

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Encoders:
    audio: AudioEncoder
    vision: VisionEncoder


def build_encoders(case: Case, folder: Path, precision: Precision) -> Encoders:
    checkpoint = Checkpoint(case.path)
    config = OmniConfig.parse(checkpoint.config).thinker
    preprocessor = checkpoint.json("preprocessor_config.json").raw
    audio = audio_encoder.build(checkpoint.scope(audio_encoder.PREFIX), config.audio, precision).save(folder)
    vision = vision_encoder.build(checkpoint.scope(vision_encoder.PREFIX), config.vision, precision).save(folder)
    vision_section = vision_encoder.section(config.vision, preprocessor, max_positions=config.text.max_positions)
    return Encoders(
        AudioEncoder(Graph(audio.graph, threads=1), audio_encoder.section(config.audio, preprocessor)),
        VisionEncoder(Graph(vision.graph, threads=1), vision_section),
    )


@pytest.fixture(scope="module")
def encoders(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return build_encoders(case, tmp_path_factory.mktemp("encoders"), FP32)


def mel_of(frames: int, seed: int = 0) -> Array:
    return np.random.default_rng([frames, seed]).standard_normal((128, frames)).astype(np.float32)


def blocks_of(mel: Array) -> list[Array]:
    return [mel[:, start : start + 200] for start in range(0, mel.shape[1], 200)]


def patches_of(grid: tuple[int, int, int]) -> Array:
    temporal, height, width = grid
    return np.random.default_rng(grid).standard_normal((temporal, height * width, 1176)).astype(np.float32)


@torch.no_grad()
def reference_audio(reference: Any, mel: Array) -> Array:
    """The tower as `get_audio_features` calls it."""
    tower = reference.thinker.model.audio_tower
    lengths = torch.tensor([mel.shape[1]])
    after_cnn, _ = tower._get_feat_extract_output_lengths(lengths)
    result: Array = tower(
        torch.from_numpy(mel), feature_lens=lengths, aftercnn_lens=after_cnn
    ).last_hidden_state.numpy()
    return result


@torch.no_grad()
def reference_vision(reference: Any, patches: Array, grid: tuple[int, int, int]) -> Array:
    """The tower as `get_image_features` calls it."""
    flat = torch.from_numpy(patches).reshape(-1, patches.shape[-1])
    result: Array = reference.thinker.model.visual(flat, grid_thw=torch.tensor([grid])).pooler_output.numpy()
    return result


def relative(ours: Array, theirs: Array) -> float:
    """Largest difference over the largest reference value."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def relative_rms(ours: Array, theirs: Array) -> float:
    assert ours.shape == theirs.shape
    return float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)))


@pytest.mark.parametrize("frames", [3, 4, 57, 199, 200, 201, 203, 600, 1257])
def test_audio_equals_the_reference(encoders: Encoders, reference: Any, frames: int) -> None:
    mel = mel_of(frames)
    expected = reference_audio(reference, mel)
    ours = encoders.audio.encode(blocks_of(mel))
    assert len(ours) == ((frames - 1) // 2 + 1 - 2) // 2 + 1
    assert relative(ours, expected) < 1e-5


def test_blocks_one_at_a_time_equal_the_batch(encoders: Encoders) -> None:
    blocks = blocks_of(mel_of(1257))
    together = encoders.audio.encode(blocks)
    alone = np.concatenate([encoders.audio.encode([block]) for block in blocks])
    assert relative(alone, together) < 1e-6


def test_a_later_block_does_not_change_an_earlier_one(encoders: Encoders) -> None:
    mel = mel_of(700)
    changed = mel.copy()
    changed[:, 400:] += 3
    before, after = encoders.audio.encode(blocks_of(mel)), encoders.audio.encode(blocks_of(changed))
    assert np.array_equal(before[:100], after[:100])
    assert np.abs(before[100:] - after[100:]).min(axis=1).max() > 0


@pytest.mark.parametrize(
    "grid",
    [(1, 2, 2), (1, 8, 8), (1, 16, 16), (1, 10, 14), (1, 2, 30), (1, 26, 6), (3, 8, 8), (2, 18, 10), (5, 32, 34)],
    ids=str,
)
def test_vision_equals_the_reference(encoders: Encoders, reference: Any, grid: tuple[int, int, int]) -> None:
    """The last grid takes two runs: 3 + 2 temporal patches."""
    patches = patches_of(grid)
    expected = reference_vision(reference, patches, grid)
    assert relative(encoders.vision.encode(patches, grid), expected) < 1e-5


@pytest.mark.parametrize(
    ("precision", "bound"),
    [
        (Precision(Kind.INT8, 32), INT8_BOUND),
        (Precision(Kind.INT4, 32), INT4_BOUND),
        (Precision(Kind.INT4, 128), INT4_BOUND),
    ],
    ids=str,
)
def test_quantized_encoders_stay_near_the_reference(
    case: Case, reference: Any, tmp_path: Path, precision: Precision, bound: float
) -> None:
    encoders = build_encoders(case, tmp_path, precision)
    mel, grid = mel_of(457), (2, 10, 14)
    audio = relative_rms(encoders.audio.encode(blocks_of(mel)), reference_audio(reference, mel))
    patches = patches_of(grid)
    vision = relative_rms(encoders.vision.encode(patches, grid), reference_vision(reference, patches, grid))
    assert 0 < audio < bound
    assert 0 < vision < bound
