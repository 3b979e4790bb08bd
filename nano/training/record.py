"""WORK/record.json: seeds, versions, the machine, and the seconds of each stage."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from omni_edge.backend.machine import machine

_PACKAGES = ("numpy", "onnxruntime", "safetensors", "tokenizers", "torch", "transformers")
_SYNTHESIZERS = ("flite", "espeak-ng", "festival")
_SEEDED = (
    "model.architecture",
    "data.speech_corpus",
    "evaluation.held_out_sets",
    "training.train_bigvgan",
    "training.train_codec",
    "training.train_dit",
)


class Record:
    """WORK/record.json: the stages that are done, and the environment of the run."""

    def __init__(self, work: Path) -> None:
        self._path = work / "record.json"
        self._content: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {"stages": {}}

    def done(self, name: str) -> bool:
        """Whether the stage has finished."""
        return self._content["stages"].get(name, {}).get("finished") is not None

    def begin(self) -> None:
        """Writes seeds, versions and the machine of this run."""
        self._content |= {
            "seeds": {name.rpartition(".")[2]: importlib.import_module(f"nano.{name}").SEED for name in _SEEDED},
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
                **{name: _version(name) for name in _SYNTHESIZERS},
            },
            "machine": asdict(machine()),
        }
        self._save()

    def note(self, name: str, command: Sequence[str], seconds: float, finished: bool) -> None:
        """Adds the time of a run of the stage `name`; `command` is the arguments of the Python interpreter."""
        before = self._content["stages"].get(name, {}).get("seconds", 0)
        self._content["stages"][name] = {
            "command": ["python", *command],
            "seconds": round(before + seconds),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds") if finished else None,
        }
        self._save()

    def _save(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._content, indent=1) + "\n")
        partial.replace(self._path)


def _version(program: str) -> str | None:
    """The first line of `program --version`; None if it is not installed."""
    try:
        # flite prints its version and exits with an error.
        result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    lines = (result.stdout or result.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""
