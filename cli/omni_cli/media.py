"""Files named on the command line, in the order in which they stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
import typer.core

from omni_edge.bundle.manifest import Manifest
from omni_edge.events import Media
from omni_edge.media.load import load_audio, load_image, load_video

KINDS = ("audio", "image", "video")


class MediaInOrder(typer.core.TyperCommand):
    """A command that remembers how its media options were interleaved: the parser keeps one list per option.

    `context.obj` holds the option names in command-line order, one per occurrence.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        ctx.obj = [parameter.name for parameter in order if parameter.name in KINDS]
        return super().parse_args(ctx, args)


def in_order(context: typer.Context, paths: Mapping[str, Sequence[Path]]) -> list[tuple[str, Path]]:
    """(kind, path) of every media option of a `MediaInOrder` command, as typed."""
    rest = {kind: iter(values) for kind, values in paths.items()}
    return [(kind, next(rest[kind])) for kind in context.obj]


def load(kind: str, path: Path, manifest: Manifest, *, sound: bool = True) -> Media:
    """Reads one file; `sound`: with the sound of a video.

    Raises:
        MediaError: it cannot be read as `kind`.
    """
    if kind == "audio":
        return load_audio(path)
    if kind == "image":
        return load_image(path)
    return load_video(path, manifest.vision, sound=sound)
