"""Damaged bundles and checkpoints end with documented exit codes: no traceback, no hang, nothing half-written.

`python -m support.fuzz_folders` runs thousands by hand; a few of them run here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.fuzz import Limits
from support.fuzz_folders import damaged_bundles, damaged_checkpoints, fuzz, use_bundle, use_checkpoint

# A machine that runs other tests meanwhile may take several times as long as alone.
LIMITS = Limits(seconds=120)


def test_damaged_bundles(mute_bundle: Path) -> None:
    assert fuzz(use_bundle, mute_bundle, damaged_bundles(mute_bundle, np.random.default_rng(1)), 40, LIMITS) == []


def test_damaged_checkpoints(checkpoint: Path) -> None:
    assert fuzz(use_checkpoint, checkpoint, damaged_checkpoints(checkpoint, np.random.default_rng(1)), 30, LIMITS) == []
