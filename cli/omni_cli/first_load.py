"""The first load of a large bundle: what `omni-edge prepare` does happens by itself, and is said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omni_edge.backend import kernels
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.backend.qnn import choose_target
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import ResourceError

# Smaller bundles load in less than a second without it.
_LARGE_BYTES = 500_000_000

NoPrepare = Annotated[
    bool, typer.Option("--no-prepare", help="Do not prepare a large bundle at its first load (see 'prepare').")
]


def prepare_at_first(folder: Path, *, wanted: bool, device: str = "cpu") -> None:
    """Compiles the operators and packs the weights of a large bundle, where that has not happened on this machine.

    It goes on without where the disk has no room or the compiler fails, and says so.

    Args:
        folder: the bundle.
        wanted: False: nothing happens.
        device: what is to run the decoders; an NPU's graphs are compiled.

    Raises:
        BundleError: the folder is no bundle.
    """
    if not wanted:
        return
    bundle = Bundle(folder)
    if sum(entry.bytes for entry in bundle.manifest.files.values()) < _LARGE_BYTES:
        return
    target = choose_target(device, bundle.manifest.static)
    try:
        if kernels.compiled() is None and kernels.available():
            typer.echo("compiling omni-edge's operators for this machine, once (--no-prepare: not now)", err=True)
            kernels.build()
        for each in (None, target) if target else (None,):
            prepared = PreparedGraphs.for_bundle(bundle, target=each)
            if roles := prepared.missing():
                typer.echo(f"preparing {', '.join(roles)} for this machine, once (--no-prepare: not now)", err=True)
                prepared.build()
    except ResourceError as error:
        typer.echo(f"warning: {error} It goes on without; --no-prepare leaves this out.", err=True)
