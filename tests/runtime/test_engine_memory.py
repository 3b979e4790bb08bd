"""An engine that is let go of is gone at once; a conversation holds what it uses and gives it back."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omni_edge import OmniEdge
from omni_edge.backend.machine import memory
from omni_edge.decoders.decoder import KVCache


def test_nothing_in_an_engine_refers_to_it(bundle: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        engine = OmniEdge.load(bundle)
        assert engine.model.vocoder() is not None
        gone = weakref.ref(engine)
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_a_cache_takes_memory_as_it_fills_and_gives_it_back(engine: OmniEdge) -> None:
    section = replace(engine.manifest.thinker, num_layers=9, num_kv_heads=2, head_dim=128)
    # Once a large block was freed, glibc serves those below its size from the heap, which shrinks at its end alone:
    # what is freed below anything that lives on stays with the process. This block may stay, too: it counts as before.
    large = np.ones(16 << 20, np.uint8)
    del large
    before = memory().anonymous
    if not before:
        pytest.skip("this system does not say")
    living = []
    for _ in range(2):
        cache = KVCache.allocate(section, 8192)
        assert cache.nbytes > 145 << 20
        assert memory().anonymous - before < 8 << 20
        for array in (*cache.keys, *cache.values):
            assert not array.any()
            array[...] = 1
        assert memory().anonymous - before > 140 << 20
        living.append(np.ones(1 << 20, np.uint8))
        del cache, array
        assert memory().anonymous - before < 8 << 20
