"""Files named on the command line, in the order in which they stand there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from omni_cli.options import GroupedHelp
from omni_edge.bundle.manifest import Manifest
from omni_edge.errors import UsageError
from omni_edge.events import Media
from omni_edge.media import load_audio, load_image, load_video

KINDS = ("audio", "image", "video")
STDIN = Path("-")


class MediaInOrder(GroupedHelp):
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


def from_stdin(parts: Sequence[tuple[str, Path]], prompt: str | None) -> bool:
    """True where one of the files is `-`: its bytes come from stdin.

    Raises:
        UsageError: the prompt or a second file is `-` as well, or stdin is a terminal or closed.
    """
    kinds = [kind for kind, path in parts if path == STDIN]
    if len(kinds) > 1 or (kinds and prompt == str(STDIN)):
        raise UsageError("Several of the prompt and the files are '-', and stdin holds one. Name the others.")
    if kinds and (sys.stdin is None or sys.stdin.closed):
        raise UsageError(f"--{kinds[0]} - reads stdin, and stdin is closed. Name a file.")
    if kinds and sys.stdin.isatty():
        raise UsageError(f"--{kinds[0]} - reads stdin, and stdin is the terminal. Pipe the file in, or name it.")
    return bool(kinds)


def load(kind: str, path: Path, manifest: Manifest, *, sound: bool = True, stdin: bool = False) -> Media:
    """Reads one file.

    Args:
        kind: one of `KINDS`.
        path: the file.
        manifest: of the bundle, for the size of a video's frames.
        sound: read the sound of a video.
        stdin: `-` stands for stdin, not for a file of that name.

    Raises:
        MediaError: it cannot be read as `kind`.
    """
    origin = sys.stdin.buffer if stdin and path == STDIN else path
    if kind == "audio":
        return load_audio(origin)
    if kind == "image":
        return load_image(origin)
    return load_video(origin, manifest.vision, sound=sound)
