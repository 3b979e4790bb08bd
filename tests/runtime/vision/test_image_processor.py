"""Patches for the vision encoder against transformers' Pillow image processor, and the video rules."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from omni_edge.errors import MediaError
from omni_edge.vision.image_processor import ImageProcessor, sample_frames, sample_moments, smart_resize, video_size
from omni_edge.vision.resize import resize
from support.perception import VISION

PROCESSOR = ImageProcessor(VISION)
FACTOR = VISION.patch_size * VISION.merge_size


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def expected(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[int]]:
    """The reference's patches [P, values] and grid."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": VISION.min_pixels, "longest_edge": VISION.max_pixels}
    result = Qwen2VLImageProcessorPil(size=size)(pixels, input_data_format="channels_last", return_tensors="np")
    return result["pixel_values"], result["image_grid_thw"][0].tolist()


@pytest.mark.parametrize(
    "size", [(1, 1), (100, 300), (480, 640), (13, 2000), (200, 1), (56, 56), (1000, 50), (29, 41), (700, 700)]
)
def test_an_image_equals_the_reference(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    patches, grid = expected(pixels)
    result = PROCESSOR.image(pixels)
    assert list(result.grid) == grid
    assert result.seconds_per_grid == 0.0
    assert result.patches.dtype == np.float32
    assert result.patches.shape == (1, *patches.shape)
    np.testing.assert_allclose(result.patches[0], patches, rtol=0, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 9000), st.integers(1, 9000))
def test_smart_resize_equals_the_reference(height: int, width: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as reference_smart_resize

    if max(height, width) > 200 * min(height, width):
        with pytest.raises(MediaError, match="200 times"):
            smart_resize(height, width, VISION, VISION.min_pixels, VISION.max_pixels)
        return
    rows, columns = smart_resize(height, width, VISION, VISION.min_pixels, VISION.max_pixels)
    assert (rows, columns) == reference_smart_resize(height, width, FACTOR, VISION.min_pixels, VISION.max_pixels)
    assert rows % FACTOR == 0
    assert columns % FACTOR == 0


def test_sizes_come_from_the_manifest() -> None:
    section = dataclasses.replace(VISION, patch_size=8, merge_size=3, max_pixels=24 * 24 * 12)
    result = ImageProcessor(section).image(noise(300, 200))
    assert result.grid == (1, 12, 6)
    assert result.patches.shape == (1, 72, 3 * 2 * 8 * 8)


def test_video_patches_hold_two_frames_each() -> None:
    """Each moment of a temporal patch is what the reference makes of that frame as an image."""
    frames = noise(6, 420, 308)
    result = PROCESSOR.video(frames, fps=2.0)
    assert result.grid == (3, 30, 22)
    assert result.seconds_per_grid == 1.0
    assert result.patches.shape == (3, 30 * 22, 1176)
    values = result.patches.reshape(3, 30 * 22, 3, 2, 14, 14)
    for index, frame in enumerate(frames):
        still = expected(frame)[0].reshape(30 * 22, 3, 2, 14, 14)
        np.testing.assert_allclose(values[index // 2, :, :, index % 2], still[:, :, 0], rtol=0, atol=1e-6)


def test_an_odd_last_frame_is_repeated() -> None:
    frames = noise(3, 420, 308)
    odd = PROCESSOR.video(frames, 4.0)
    even = PROCESSOR.video(np.concatenate([frames, frames[-1:]]), 4.0)
    assert odd.grid == even.grid == (2, 30, 22)
    assert odd.seconds_per_grid == 0.5
    np.testing.assert_array_equal(odd.patches, even.patches)


@pytest.mark.parametrize(
    ("frames", "size", "wanted"),
    [
        (4, (240, 320), (280, 392)),  # raised to the smallest budget
        (4, (1080, 1920), (560, 1008)),  # the largest budget of one frame
        (768, (1080, 1920), (336, 644)),  # an even share of the whole video's budget
        (100_000, (1080, 1920), (224, 420)),  # never below 1.05 times the smallest budget, before rounding down
    ],
)
def test_frames_share_the_videos_budget(frames: int, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert video_size(frames, *size, VISION) == wanted


def test_frames_of_the_right_size_are_not_resized_again() -> None:
    frames = noise(4, 240, 320)
    ready = np.stack([resize(frame, *video_size(4, 240, 320, VISION)) for frame in frames])
    np.testing.assert_array_equal(PROCESSOR.video(ready, 2.0).patches, PROCESSOR.video(frames, 2.0).patches)


@pytest.mark.parametrize(
    ("total", "fps", "count", "sampled"),
    [
        (75, 25.0, 6, 2.0),  # 3 s at 2 frames/s
        (80, 25.0, 6, 1.875),  # 6.4 frames, rounded down to an even number
        (25, 25.0, 4, 4.0),  # at least 4
        (3, 25.0, 2, 50 / 3),  # no more than there are, an even number
        (100_000, 25.0, 768, 0.192),  # at most 768
        (1, 25.0, 2, 50.0),  # a single frame is shown twice
    ],
)
def test_frames_are_sampled_evenly(total: int, fps: float, count: int, sampled: float) -> None:
    indices, rate = sample_frames(total, fps, VISION)
    assert rate == pytest.approx(sampled)
    assert indices.tolist() == np.linspace(0, total - 1, count).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("fps", "jitter"), [(25.0, 0.0), (25.0, 0.0005), (25.0, 0.015), (None, 0.0005), (24.0, 0.0), (24.0, 0.0005)]
)
def test_a_constant_rate_is_sampled_by_number(fps: float | None, jitter: float) -> None:
    """Rounded or slightly uneven time stamps are a constant rate, and so is one that the header states wrongly."""
    times = 3.0 + np.arange(1000) / 25 + np.random.default_rng(0).uniform(-jitter, jitter, 1000)
    indices, rate = sample_moments(np.sort(times), fps, VISION)
    wanted, wanted_rate = sample_frames(1000, 25.0, VISION)
    np.testing.assert_array_equal(indices, wanted)
    assert rate == pytest.approx(wanted_rate, rel=1e-4)


def test_without_time_stamps_the_stated_rate_counts() -> None:
    indices, rate = sample_moments(np.zeros(75), 25.0, VISION)
    assert (indices.tolist(), rate) == ([0, 15, 30, 44, 59, 74], 2.0)
    with pytest.raises(MediaError, match="neither times nor a rate"):
        sample_moments(np.zeros(75), None, VISION)


@pytest.mark.parametrize(
    ("times", "indices", "fps"),
    [
        ([0, 3, 3.5], [0, 0, 0, 0, 0, 0, 1, 2], 2.0),  # 4 s: the last frame lasts as long as the one before it
        ([5, 5.1, 9], [0, 1, 1, 1, 1, 1, 1, 1, 2, 2], 2.0),  # 5 s: it lasts 1 s at most
        ([0, 0.01, 0.1], [0, 1, 1, 2], 4 / 0.19),  # never fewer than 4
        ([0, 0.1, 10_000], [0, *[1] * 767], 768 / 10_001),  # never more than 768
    ],
)
def test_a_variable_rate_is_sampled_by_time(times: list[float], indices: list[int], fps: float) -> None:
    found, rate = sample_moments(np.array(times), 25.0, VISION)
    assert found.tolist() == indices
    assert rate == pytest.approx(fps, rel=1e-4)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.zeros((5, 5, 3), np.float32), "float32"),
        (np.zeros((5, 5), np.uint8), r"uint8 \[5, 5\]"),
        (np.zeros((5, 5, 4), np.uint8), r"\[5, 5, 4\]"),
        (np.zeros((1, 201, 3), np.uint8), "201 x 1"),
    ],
)
def test_unusable_pictures_are_refused(pixels: NDArray[Any], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        PROCESSOR.image(pixels)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_frame_rates_are_refused(fps: float) -> None:
    with pytest.raises(MediaError, match="frames per second"):
        PROCESSOR.video(np.zeros((2, 30, 30, 3), np.uint8), fps)


def test_unusable_videos_are_refused() -> None:
    with pytest.raises(MediaError, match="empty"):
        PROCESSOR.video(np.zeros((0, 30, 30, 3), np.uint8), 2.0)
    with pytest.raises(MediaError, match=r"\[30, 30, 3\]"):
        PROCESSOR.video(np.zeros((30, 30, 3), np.uint8), 2.0)
