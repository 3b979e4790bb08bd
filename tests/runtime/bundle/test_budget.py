"""What fits into a memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_edge import shipped_bundle
from omni_edge.bundle.budget import fit
from omni_edge.bundle.manifest import Manifest
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import ResourceError

# Sizes in bytes of the 3B's graphs with INT4 weights, and of its KV caches (docs/raspberry-pi.md).
SIZES = {
    "audio_encoder": 696_000_000,
    "vision_encoder": 718_000_000,
    "token_embedding": 331_000_000,
    "thinker": 1_936_000_000,
    "talker": 261_000_000,
    "dit": 205_000_000,
    "dit_time": 155_000_000,
    "bigvgan": 264_000_000,
}


@pytest.fixture(scope="module")
def three_b() -> Manifest:
    """The built-in bundle's manifest with the sizes of a 3B."""
    manifest = Bundle(shipped_bundle()).manifest
    files = {entry.file: SIZES[role] for role, entry in manifest.graphs.items()}
    files |= {entry.data: 0 for entry in manifest.graphs.values() if entry.data}
    assert manifest.talker_decoder is not None
    return replace(
        manifest,
        files={name: replace(file, bytes=files.get(name, file.bytes)) for name, file in manifest.files.items()},
        thinker=replace(manifest.thinker, num_layers=36, num_kv_heads=2, head_dim=128, max_positions=32768),
        talker_decoder=replace(manifest.talker_decoder, num_layers=24, num_kv_heads=2, head_dim=64),
    )


@pytest.mark.parametrize(
    ("budget", "context", "low_memory"),
    [(6.0e9, 8192, False), (5.5e9, 4096, False), (5.0e9, 8192, True), (4.0e9, 4096, True), (3.5e9, 2048, True)],
)
def test_the_largest_context_that_fits_is_chosen(
    three_b: Manifest, budget: float, context: int, low_memory: bool
) -> None:
    chosen = fit(three_b, int(budget))
    assert (chosen.context, chosen.low_memory) == (context, low_memory)
    assert chosen.nbytes <= budget
    assert chosen.max_pixels == context // 4 * 28 * 28


def test_what_the_user_asks_for_is_kept(three_b: Manifest) -> None:
    chosen = fit(three_b, int(6e9), context=1000, max_pixels=100_000, low_memory=True)
    assert (chosen.context, chosen.max_pixels, chosen.low_memory) == (1000, 100_000, True)


def test_packed_weights_count_more_than_their_file(three_b: Manifest) -> None:
    mapped, packed = fit(three_b, int(9e9)), fit(three_b, int(9e9), packed={"thinker"})
    assert packed.nbytes - mapped.nbytes == int(0.36 * SIZES["thinker"])


def test_a_bundle_that_cannot_fit_is_refused_with_the_numbers(three_b: Manifest) -> None:
    with pytest.raises(ResourceError, match=r"needs 3\.\d\d GB with a context of 1024 .* budget is 3\.00 GB\. Use"):
        fit(three_b, int(3e9))
    with pytest.raises(ResourceError, match=r"a context of 8192 .*Ask for a smaller context, or .*--kv-cache int8"):
        fit(three_b, int(3.5e9), context=8192)
