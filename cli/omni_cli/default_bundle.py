"""Which bundle a command works on: the one that was named, else the built-in one, said aloud."""

from __future__ import annotations

from pathlib import Path

import typer

from omni_edge import shipped_bundle


def resolve_bundle(bundle: Path | None, choice: str = "-m BUNDLE") -> Path:
    """`bundle`, or where none was named the built-in one, with a line on stderr that says so.

    Args:
        bundle: what the user named.
        choice: how the command takes another one.

    Raises:
        BundleError: none was named and this installation has none.
    """
    if bundle is not None:
        return bundle
    shipped = shipped_bundle()
    typer.echo(f"omni-nano, the built-in demonstration model (not Qwen's weights); {choice} takes another.", err=True)
    return shipped
