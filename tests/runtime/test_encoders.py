"""What the encoders ask of their graphs: plans, batches, order and bounds. Parity is tests/export's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.audio.encoder import AudioEncoder
from omni_edge.audio.front_end import audio_tokens
from omni_edge.backend.graph import TensorSpec
from omni_edge.bundle.manifest import AudioSection, VisionSection
from omni_edge.errors import UsageError
from omni_edge.vision.encoder import VisionEncoder, window_plan

AUDIO = AudioSection(sample_rate=16000, n_fft=400, hop_length=160, n_mels=8, block_frames=200)
VISION = VisionSection(
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    window_size=112,
    head_dim=20,
    rope_theta=10_000.0,
    min_pixels=3136,
    max_pixels=12_845_056,
    video_min_pixels=100_352,
    video_max_pixels=602_112,
    video_total_pixels=23_121_336,
    video_fps=2.0,
    video_min_frames=4,
    video_max_frames=768,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
VALUES = 6
GRIDS = [(2, 2), (8, 8), (2, 30), (26, 6), (10, 14), (32, 32), (34, 18)]


class FakeGraph:
    """Records what it is fed; its embeds are the first values of the rows that would become a token."""

    def __init__(self, source: str, shape: tuple[int | None, ...]) -> None:
        self.inputs = {source: TensorSpec(source, np.dtype(np.float32), shape)}
        self.outputs = {"embeds": TensorSpec("embeds", np.dtype(np.float32), (None, None, 1))}
        self.fed: list[Mapping[str, NDArray[Any]]] = []

    def input_name(self, role: str) -> str:
        return role

    def output_name(self, role: str) -> str:
        return role

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        assert outputs == ["embeds"]
        self.fed.append(feeds)
        if "mel" in feeds:
            return [feeds["mel"][:, :1, : audio_tokens(feeds["mel"].shape[2]) * 4 : 4].transpose(0, 2, 1)]
        patches = feeds["patches"][:, feeds["order"]]
        return [patches[:, :: VISION.merge_size**2, :1][:, feeds["restore"]]]


def audio_encoder() -> tuple[AudioEncoder, FakeGraph]:
    graph = FakeGraph("mel", (None, 8, None))
    return AudioEncoder(graph, AUDIO), graph  # type: ignore[arg-type]


def vision_encoder() -> tuple[VisionEncoder, FakeGraph]:
    graph = FakeGraph("patches", (None, None, VALUES))
    return VisionEncoder(graph, VISION), graph  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", range(1, 201))
def test_tokens_of_a_block_are_the_reference_formula(frames: int) -> None:
    assert audio_tokens(frames) == ((frames - 1) // 2 + 1 - 2) // 2 + 1


def test_long_recordings_go_through_a_few_blocks_at_a_time_and_stay_in_order() -> None:
    encoder, graph = audio_encoder()
    clip = np.arange(8 * 2057, dtype=np.float32).reshape(2057, 8).T
    embeds = encoder.encode([clip[:, start : start + 200] for start in range(0, 2057, 200)])
    assert [feeds["mel"].shape for feeds in graph.fed] == [(4, 8, 200), (4, 8, 200), (2, 8, 200), (1, 8, 57)]
    assert np.array_equal(embeds[:, 0], clip[0, : 4 * 514 : 4])


def test_blocks_of_mixed_lengths_stay_in_order() -> None:
    encoder, graph = audio_encoder()
    lengths = [200, 8, 8, 200]
    embeds = encoder.encode([np.full((8, frames), index, np.float32) for index, frames in enumerate(lengths)])
    assert [feeds["mel"].shape for feeds in graph.fed] == [(1, 8, 200), (2, 8, 8), (1, 8, 200)]
    assert embeds[:, 0].tolist() == [0] * 50 + [1] * 2 + [2] * 2 + [3] * 50


@pytest.mark.parametrize("lengths", [[], [1], [2, 1]], ids=str)
def test_nothing_worth_a_token_gives_no_embeds_and_no_run(lengths: list[int]) -> None:
    encoder, graph = audio_encoder()
    embeds = encoder.encode([np.zeros((8, frames), np.float32) for frames in lengths])
    assert embeds.shape == (0, encoder.hidden_size)
    assert embeds.dtype == np.float32
    assert not graph.fed


@pytest.mark.parametrize("shape", [(7, 200), (8, 201), (8, 0), (1, 8, 200)], ids=str)
def test_a_block_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    encoder, graph = audio_encoder()
    with pytest.raises(UsageError, match=r"takes \[8, 1 to 200 frames\]"):
        encoder.encode([np.zeros((8, 200), np.float32), np.zeros(shape, np.float32)])
    assert not graph.fed


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_windows_are_the_reference_windows(grid: tuple[int, int]) -> None:
    import torch
    from transformers.vision_utils import get_vision_window_index

    plan = window_plan(VISION, *grid)
    index, bounds = get_vision_window_index(torch.tensor([[1, *grid]]), 2, 112, 14)
    assert np.array_equal(plan.order.reshape(-1, 4)[:, 0] // 4, index.numpy())
    assert np.array_equal(plan.order.reshape(-1, 4) % 4, np.tile(np.arange(4), (len(index), 1)))
    assert np.array_equal(plan.restore, torch.argsort(index).numpy())
    assert np.array_equal(np.cumsum(plan.lengths), bounds.numpy()[1:])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_slots_hold_each_window_and_unslots_undo_them(grid: tuple[int, int]) -> None:
    plan = window_plan(VISION, *grid)
    patches = np.arange(grid[0] * grid[1])
    assert np.array_equal(plan.slots.reshape(-1)[plan.unslots], patches)
    start = 0
    for slots, length in zip(plan.slots, plan.lengths.tolist(), strict=True):
        assert np.array_equal(slots[:length], patches[start : start + length])
        assert np.all(slots[length:] == slots[length - 1])
        start += length
    assert start == len(patches)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_angles_come_from_rows_then_columns(grid: tuple[int, int]) -> None:
    import torch
    from transformers.vision_utils import get_vision_position_ids

    plan = window_plan(VISION, *grid)
    positions = get_vision_position_ids(torch.tensor([[1, *grid]]), 2).double().numpy()[plan.order]
    frequencies = 10_000.0 ** (-np.arange(0, 10, 2) / 10)
    angles = (positions[:, :, None] * frequencies).reshape(len(positions), 10)
    assert np.abs(plan.cos - np.cos(angles)).max() < 1e-5
    assert np.abs(plan.sin - np.sin(angles)).max() < 1e-5


def test_plans_are_read_only_shared_and_few() -> None:
    window_plan.cache_clear()
    plan = window_plan(VISION, 8, 8)
    with pytest.raises(ValueError, match="read-only"):
        plan.cos[0, 0] = 2
    assert window_plan(VISION, 8, 8) is plan
    for columns in range(2, 60, 2):
        window_plan(VISION, 2, columns)
    assert window_plan.cache_info().currsize <= 8
    assert window_plan(VISION, 8, 8) is not plan


def test_threads_that_plan_at_once_get_equal_plans() -> None:
    window_plan.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda columns: window_plan(VISION, 12, columns), [14, 18] * 16))
    for plan, columns in zip(plans, [14, 18] * 16, strict=True):
        assert np.array_equal(plan.restore, window_plan(VISION, 12, columns).restore)


def test_a_long_video_goes_through_a_few_temporal_patches_at_a_time_in_order() -> None:
    encoder, graph = vision_encoder()
    patches = np.arange(9 * 1024 * VALUES, dtype=np.float32).reshape(9, 1024, VALUES)
    embeds = encoder.encode(patches, (9, 32, 32))
    assert [len(feeds["patches"]) for feeds in graph.fed] == [4, 4, 1]
    assert [len(feeds["lengths"]) for feeds in graph.fed] == [64, 64, 16]
    assert np.array_equal(embeds[:, 0], patches[:, ::4, 0].reshape(-1))


def test_the_largest_pictures_go_through_alone() -> None:
    encoder, graph = vision_encoder()
    encoder.encode(np.zeros((2, 80 * 80, VALUES), np.float32), (2, 80, 80))
    assert [len(feeds["patches"]) for feeds in graph.fed] == [1, 1]


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((1, 16, VALUES), (1, 4, 6)),
        ((2, 16, VALUES), (1, 4, 4)),
        ((1, 16, VALUES + 1), (1, 4, 4)),
        ((1, 12, VALUES), (1, 3, 4)),
        ((0, 16, VALUES), (0, 4, 4)),
        ((1, 0, VALUES), (1, 0, 4)),
    ],
    ids=str,
)
def test_patches_that_do_not_fill_the_grid_are_refused(shape: tuple[int, ...], grid: tuple[int, int, int]) -> None:
    encoder, graph = vision_encoder()
    with pytest.raises(UsageError, match="do not fit the grid"):
        encoder.encode(np.zeros(shape, np.float32), grid)
    assert not graph.fed
