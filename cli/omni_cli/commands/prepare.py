"""`omni-edge prepare`: operators compiled and weights packed for this machine."""

from __future__ import annotations

import typer

from omni_cli import options
from omni_cli.console import human_bytes
from omni_cli.default_bundle import resolve_bundle
from omni_edge.backend import kernels
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.backend.qnn import choose_target
from omni_edge.bundle.reader import Bundle


def prepare(
    *,
    bundle: options.Bundle = None,
    device: options.Device = "cpu",
    debug: options.Debug = False,
) -> None:
    """Compile omni-edge's operators and pack a bundle's weights for this machine, once: everything then runs faster,
    loads faster and shares its memory between processes.

    Compiling needs a C compiler (cc, gcc, clang or $CC); without one, standard operators do the work. The packed copy
    goes into the user's cache folder, or into $OMNI_EDGE_CACHE; the bundle is not touched. Another processor or
    onnxruntime version ignores it; run the command again there. With --device qnn the bundle's graphs for an NPU are
    compiled.
    """
    opened = Bundle(resolve_bundle(bundle, "BUNDLE"), verify=True)
    target = choose_target(device, opened.manifest.static)
    typer.echo("compiling", err=True)
    if kernels.build() is None:
        reason = "OMNI_EDGE_KERNELS is 0" if kernels.switched_off() else "there is no C compiler; install one"
        typer.echo(f"Nothing is compiled ({reason}): standard operators, which are slower, do the work.", err=True)
    for each in (None, target) if target else (None,):
        prepared = PreparedGraphs.for_bundle(opened, target=each)
        nbytes = prepared.build(lambda role: typer.echo(f"preparing {role}", err=True), _wait)
        typer.echo(f"{prepared.folder}  {human_bytes(nbytes)}")


def _wait(process: int | None) -> None:
    """Another process prepares the same bundle: its result will be used."""
    typer.echo(f"waiting for process {process or '(unknown)'}, which prepares this bundle", err=True)
