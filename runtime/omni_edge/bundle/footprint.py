"""How much memory a bundle asks for, computed from its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass

from omni_edge.bundle.manifest import Manifest, graph_bytes
from omni_edge.decoders.decoder import KVCache


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
    """What `manifest` asks for."""
    decoders = [manifest.thinker, *([manifest.talker_decoder] if manifest.talker_decoder else [])]
    return Footprint(
        weights=sum(graph_bytes(manifest, role) for role in manifest.graphs),
        per_position=sum(KVCache.allocate(decoder, 1).nbytes for decoder in decoders),
    )
