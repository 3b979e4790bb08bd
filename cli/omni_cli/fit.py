"""`--fit`: settings that keep a conversation within a memory, said aloud."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from omni_edge import SessionSettings
from omni_edge.backend import kernels
from omni_edge.backend.machine import machine
from omni_edge.bundle.budget import fit
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import ResourceError, UsageError

# What an app may take on such a device, in bytes (docs/raspberry-pi.md).
DEVICES = {"phone-8gb": 3_500_000_000, "pi5-8gb": 6_000_000_000, "laptop": 10_000_000_000}
_UNITS = {"MB": 1_000_000, "GB": 1_000_000_000}

FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit",
        metavar="MEMORY",
        help=f"Choose --context, --max-pixels and --low-memory, where they are not given, to stay within a memory: a "
        f"size (3500MB, 6GB), a device ({', '.join(DEVICES)}), or auto: three quarters of this machine's.",
    ),
]


def fitted(
    asked: str | None, folder: Path, settings: SessionSettings, low_memory: bool
) -> tuple[SessionSettings, bool]:
    """The settings and `low_memory` as they were asked for, or with --fit chosen where nothing was.

    Raises:
        UsageError: `asked` is no memory.
        ResourceError: the bundle does not fit.
    """
    if asked is None:
        return settings, low_memory
    bundle = Bundle(folder)
    manifest = bundle.manifest
    packed = {role for role, entry in manifest.graphs.items() if not kernels.read_in_place(bundle.file(entry.file))}
    chosen = fit(
        manifest,
        _budget(asked),
        context=settings.context,
        max_pixels=settings.max_pixels,
        low_memory=low_memory,
        packed=packed,
    )
    typer.echo(
        f"fit: {chosen.nbytes / 1e9:.2f} of {_budget(asked) / 1e9:.2f} GB: --context {chosen.context} "
        f"--max-pixels {chosen.max_pixels}{' --low-memory' if chosen.low_memory else ''}",
        err=True,
    )
    return replace(settings, context=chosen.context, max_pixels=chosen.max_pixels), chosen.low_memory


def _budget(asked: str) -> int:
    """Bytes."""
    if asked in DEVICES:
        return DEVICES[asked]
    if asked == "auto":
        if not (memory := machine().memory):
            raise ResourceError("This system does not say how much memory it has: name a size, such as --fit 6GB.")
        return memory * 3 // 4
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)(MB|GB)", asked, re.IGNORECASE):
        return int(float(size[1]) * _UNITS[size[2].upper()])
    raise UsageError(f"--fit {asked} names no memory. Write a size (6GB), auto, or one of {', '.join(DEVICES)}.")
