"""`omni-edge`: the program and its commands."""

from __future__ import annotations

import typer

from omni_cli import media, options
from omni_cli.commands.bench import bench
from omni_cli.commands.chat import chat
from omni_cli.commands.devices import devices
from omni_cli.commands.info import info
from omni_cli.commands.prepare import prepare
from omni_cli.commands.run import run
from omni_cli.commands.serve import serve
from omni_cli.errors import reports_errors
from omni_cli.options import GroupedHelp
from omni_cli.session_options import takes_session_options
from omni_cli.standard_streams import set_up_streams

app = typer.Typer(
    name="omni-edge",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def omni_edge(*, version: options.Version = False) -> None:
    """Qwen2.5-Omni on the CPU: text, sound, images and video in; text and speech out, as they are made."""


app.command(cls=media.MediaInOrder)(reports_errors(takes_session_options(run)))
app.command(cls=GroupedHelp)(reports_errors(takes_session_options(chat)))
app.command(cls=GroupedHelp)(reports_errors(serve))
app.command(cls=GroupedHelp)(reports_errors(devices))
app.command(cls=GroupedHelp)(reports_errors(info))
app.command(cls=GroupedHelp)(reports_errors(prepare))
app.command(cls=GroupedHelp)(reports_errors(bench))


def main() -> None:
    """Entry point of `omni-edge`."""
    set_up_streams()
    app()
