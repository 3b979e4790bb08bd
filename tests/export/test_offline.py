"""An export of a folder looks up no host, and neither does its verification."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.offline import assert_offline, watch

EXPORT = "from omni_cli.commands.export import main; main()"
OPTIMUM = "from optimum.commands.optimum_cli import main; main()"


@pytest.mark.parametrize("program", ["omni-export", "optimum-cli", "verify"])
def test_an_export_of_a_folder_is_offline(program: str, checkpoint: Path, mute_bundle: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "bundle"), "--text-only")
    words = {
        "omni-export": (EXPORT, str(checkpoint), *out),
        "optimum-cli": (OPTIMUM, "export", "omni-edge", str(checkpoint), *out),
        "verify": (EXPORT, "verify", str(mute_bundle), "--against", str(checkpoint)),
    }[program]
    assert_offline(watch([sys.executable, "-c", *words], tmp_path))
