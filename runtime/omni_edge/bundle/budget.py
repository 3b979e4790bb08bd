"""What of a bundle fits into a given memory, computed from its manifest before anything is loaded."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from omni_edge.bundle.footprint import footprint
from omni_edge.bundle.manifest import Manifest, graph_bytes
from omni_edge.errors import ResourceError

CONTEXTS = (8192, 4096, 2048, 1024)
"""Contexts that are tried, in positions, the largest first."""
# Below this context, parts that are loaded by turns are the smaller evil.
_ROOMY = 4096

# Measured: Python with its packages, and the activations of a chunk of sound or speech.
_PROCESS_BYTES = 120_000_000
_CHUNK_BYTES = 100_000_000
# Activations of Qwen's vision encoder: 1.5 GB for 16 000 patches. Smaller encoders need less.
_PATCH_BYTES = 94_000
# A graph that onnxruntime packs takes 1.36 times its file: packed weights and what is read of the file.
_PACKED = 1.36
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Fit:
    """What to choose so that a conversation stays within a budget.

    Attributes:
        context: positions.
        max_pixels: of the largest picture: a quarter of the context, as by default.
        low_memory: one of the encoders and the vocoder in memory at a time.
        nbytes: the most that is resident, with a full context and the largest picture.
    """

    context: int
    max_pixels: int
    low_memory: bool
    nbytes: int


def fit(
    manifest: Manifest,
    budget: int,
    *,
    context: int | None = None,
    max_pixels: int | None = None,
    low_memory: bool = False,
    packed: AbstractSet[str] = frozenset(),
) -> Fit:
    """The largest context whose conversation stays within `budget`: with everything loaded, or with parts by turns.

    Args:
        manifest: of the bundle.
        budget: bytes.
        context: positions that the user asks for; None: it is chosen.
        max_pixels: pixels that the user asks for; None: they are chosen.
        low_memory: the user asks for it; False: it is chosen.
        packed: roles of the graphs whose weights are packed in memory, not read from their mapped file.

    Raises:
        ResourceError: even the smallest choice does not fit; the text has the numbers.
    """
    limit = manifest.thinker.max_positions
    contexts = [context] if context else sorted({min(size, limit) for size in CONTEXTS}, reverse=True)
    whole = [] if low_memory else [size for size in contexts if size >= min(_ROOMY, contexts[0])]
    sizes = [*((size, False) for size in whole), *((size, True) for size in contexts)]
    choices = [_choice(manifest, size, max_pixels, low, packed) for size, low in sizes]
    found = next((choice for choice in choices if choice.nbytes <= budget), None)
    if found is None:
        least = choices[-1]
        needed, given = (f"{nbytes / _GIGABYTE:.2f} GB" for nbytes in (least.nbytes, budget))
        raise ResourceError(
            f"This bundle needs {needed} with a context of {least.context} and parts loaded by turns; the budget is "
            f"{given}. {_remedy(manifest, least)}"
        )
    return found


def _choice(
    manifest: Manifest, context: int, max_pixels: int | None, low_memory: bool, packed: AbstractSet[str]
) -> Fit:
    vision = manifest.vision
    pixels_per_position = (vision.patch_size * vision.merge_size) ** 2
    pixels = max(max_pixels or context // 4 * pixels_per_position, vision.min_pixels)

    def weights(*roles: str) -> int:
        sizes = {role: graph_bytes(manifest, role) for role in roles if role in manifest.graphs}
        return sum(int(size * _PACKED) if role in packed else size for role, size in sizes.items())

    # Of the embedding table only rows that are used become resident.
    always = _PROCESS_BYTES + weights("thinker", "talker") + context * footprint(manifest).per_position
    parts = {
        "audio_encoder": (weights("audio_encoder"), _CHUNK_BYTES),
        "vision_encoder": (weights("vision_encoder"), pixels // vision.patch_size**2 * _PATCH_BYTES),
        "vocoder": (weights("dit", "dit_time", "bigvgan"), _CHUNK_BYTES if manifest.talker else 0),
    }
    if low_memory:
        most = max(size + activations for size, activations in parts.values())
    else:
        most = sum(size for size, _ in parts.values()) + max(activations for _, activations in parts.values())
    return Fit(context=context, max_pixels=pixels, low_memory=low_memory, nbytes=always + most)


def _remedy(manifest: Manifest, least: Fit) -> str:
    if manifest.thinker.cache_dtype != "int8" and least.context > CONTEXTS[-1]:
        return "Ask for a smaller context, or export the bundle with --kv-cache int8."
    return "Use smaller pictures, a smaller model, or a bundle without speech (omni-export --text-only)."
