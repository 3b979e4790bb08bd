"""An engine that is let go of is gone at once."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from omni_edge import OmniEdge


def test_nothing_in_an_engine_refers_to_it(fp32_bundle: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        engine = OmniEdge.load(fp32_bundle)
        assert engine.vocoder is not None
        gone = weakref.ref(engine)
        del engine
        assert gone() is None
    finally:
        gc.enable()
