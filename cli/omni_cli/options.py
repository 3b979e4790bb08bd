"""Options that several commands share, and how help lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from omni_cli import __version__


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


_BUNDLE_HELP = "The exported bundle (a folder). Default: the one that is built in."
Model = Annotated[Path | None, typer.Option("--model", "-m", metavar="BUNDLE", help=_BUNDLE_HELP)]
Bundle = Annotated[Path | None, typer.Argument(metavar="BUNDLE", help=_BUNDLE_HELP)]
NoSpeech = Annotated[bool, typer.Option("--no-speech", help="Text only: the Talker and the vocoder stay idle.")]
NoVideoSound = Annotated[bool, typer.Option("--no-audio-in-video", help="Leave the sound of videos out.")]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest reply, in text tokens.")
]
MaxCodecTokens = Annotated[
    int | None,
    typer.Option("--max-codec-tokens", metavar="N", min=1, help="Longest speech, in codec tokens (50 a second)."),
]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="Cores to use. Default: all.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="cpu|qnn|auto",
        help="What runs the Thinker and the Talker. qnn: Qualcomm's NPU. auto: the NPU where there is one.",
    ),
]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="Keep one of the encoders and the vocoder in memory at a time; pauses between."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of text.")]
Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class GroupedHelp(typer.core.TyperCommand):
    """A command whose plain help lists the options of each panel under a heading of their own."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes `Options`, then each panel's options."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panel = getattr(parameter, "rich_help_panel", None) or kind
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            if records:
                with formatter.section(panel):
                    formatter.write_dl(records)
