"""The memory that a bundle needs, computed from its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_edge.bundle.manifest import DecoderSection, Manifest, graph_bytes


@dataclass(frozen=True)
class Footprint:
    """Bytes that a bundle needs.

    Attributes:
        weights: all graphs; mapped from disk, shared by the sessions of a process.
        per_position: one position of the context in the KV caches of one session, the Thinker's and the Talker's.
    """

    weights: int
    per_position: int


def footprint(manifest: Manifest) -> Footprint:
    """The memory need of the bundle that `manifest` describes."""
    decoders = [manifest.thinker, *([manifest.talker_decoder] if manifest.talker_decoder else [])]
    return Footprint(
        weights=sum(graph_bytes(manifest, role) for role in manifest.graphs),
        per_position=sum(cache_bytes(decoder) for decoder in decoders),
    )


def cache_bytes(section: DecoderSection) -> int:
    """Bytes of one position in a decoder's KV cache: keys and values of every layer, cos and sin of its rotary row."""
    keys_and_values = 2 * section.num_layers * section.num_kv_heads * section.head_dim
    cos_and_sin = 2 * (section.head_dim // 2)
    return keys_and_values * np.dtype(section.cache_dtype).itemsize + cos_and_sin * np.dtype(np.float32).itemsize
