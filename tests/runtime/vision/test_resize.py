"""Bicubic resizing against Pillow, byte for byte."""

from __future__ import annotations

import tracemalloc

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from omni_edge.vision.resize import resize

SIZES = [
    ((100, 120), (56, 84)),
    ((37, 53), (112, 140)),
    ((480, 640), (448, 644)),
    ((640, 480), (644, 448)),
    ((1080, 1920), (392, 700)),
    ((999, 1001), (28, 28)),
    ((64, 64), (64, 28)),
    ((64, 64), (28, 64)),
    ((1, 1), (56, 56)),
    ((1, 500), (28, 1400)),
    ((300, 2), (4200, 28)),
]


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """The hardest case: overshoot and clipping everywhere."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Pillow's bytes. Before version 13 it always narrowed first; two calls give the newer order with any version."""
    picture = Image.fromarray(pixels)
    rows, columns = pixels.shape[:2]
    if int(PIL.__version__.split(".")[0]) < 13 and height < rows and rows - height > 2 * (columns - width):
        picture = picture.resize((columns, height), Image.Resampling.BICUBIC)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_equals_pillow(size: tuple[int, int], target: tuple[int, int]) -> None:
    pixels = noise(*size, seed=1)
    np.testing.assert_array_equal(resize(pixels, *target), pillow(pixels, *target))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 160)] * 4), st.integers(0, 1000))
def test_equals_pillow_at_any_size(sizes: tuple[int, int, int, int], seed: int) -> None:
    height, width, rows, columns = sizes
    pixels = noise(height, width, seed)
    np.testing.assert_array_equal(resize(pixels, rows, columns), pillow(pixels, rows, columns))


def test_the_right_size_is_left_alone() -> None:
    pixels = noise(28, 56, 2)
    assert resize(pixels, 28, 56) is pixels


def test_views_and_their_copies_give_the_same() -> None:
    pixels = noise(90, 70, 3)
    turned = np.rot90(pixels)
    np.testing.assert_array_equal(resize(turned, 40, 60), resize(np.ascontiguousarray(turned), 40, 60))


def test_smooth_pictures_are_within_a_level_of_torch() -> None:
    """The published video preprocessing resizes with torch, which rounds once instead of twice."""
    import torch

    y, x = np.mgrid[0:240, 0:320]
    waves = 127.5 + 60 * np.sin(x / 17)[..., None] * np.cos(y / 23)[..., None] * np.array([1.0, 0.7, -0.9])
    pixels = np.round(waves).astype(np.uint8)
    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    wanted = torch.nn.functional.interpolate(planes, (196, 252), mode="bicubic", antialias=True)
    difference = resize(pixels, 196, 252) - wanted[0].permute(1, 2, 0).round().numpy()
    assert np.abs(difference).max() <= 1
    assert np.mean(difference == 0) > 0.8


def test_a_large_picture_takes_little_extra_memory() -> None:
    """Strip by strip: 12 megapixels (36 MB) need their intermediate bytes, the result and a few 16 MiB strips."""
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    tracemalloc.start()
    try:
        resize(pixels, 1400, 1876)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 120e6
