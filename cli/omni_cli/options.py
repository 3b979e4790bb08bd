"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omni_cli import __version__


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


_BUNDLE_HELP = "The exported bundle (a folder). Default: the one that is built in."
Model = Annotated[Path | None, typer.Option("--model", "-m", metavar="BUNDLE", help=_BUNDLE_HELP)]
Bundle = Annotated[Path | None, typer.Argument(metavar="BUNDLE", help=_BUNDLE_HELP)]
System = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="System prompt. Default: the checkpoint's.")
]
Voice = Annotated[
    str | None, typer.Option("--voice", metavar="NAME", help="Speaker. 'omni-edge info' lists the bundle's.")
]
NoSpeech = Annotated[bool, typer.Option("--no-speech", help="Text only: the Talker and the vocoder stay idle.")]
NoVideoSound = Annotated[bool, typer.Option("--no-audio-in-video", help="Leave the sound of videos out.")]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest reply, in text tokens.")
]
MaxCodecTokens = Annotated[
    int | None,
    typer.Option("--max-codec-tokens", metavar="N", min=1, help="Longest speech, in codec tokens (50 a second)."),
]
Temp = Annotated[float | None, typer.Option("--temp", metavar="X", help="Temperature of the text; 0 is greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="N", help="Choose among the N best tokens; 0: all.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", metavar="X", help="Choose among the best tokens of probability X together.")
]
RepeatPenalty = Annotated[float | None, typer.Option("--repeat-penalty", metavar="X", help="Above 1: repeat less.")]
TalkerTemp = Annotated[
    float | None, typer.Option("--talker-temp", metavar="X", help="Temperature of the speech; 0 is greedy.")
]
TalkerTopK = Annotated[int | None, typer.Option("--talker-top-k", metavar="N", help="As --top-k, for the speech.")]
TalkerTopP = Annotated[float | None, typer.Option("--talker-top-p", metavar="X", help="As --top-p, for the speech.")]
TalkerRepeatPenalty = Annotated[
    float | None, typer.Option("--talker-repeat-penalty", metavar="X", help="As --repeat-penalty, for the speech.")
]
Solver = Annotated[
    str | None,
    typer.Option("--solver", metavar="euler|ab2|rk4", help="How the vocoder integrates. rk4 is the reference's way."),
]
Evaluations = Annotated[
    int | None,
    typer.Option("--evaluations", metavar="N", min=1, help="Of the vocoder's network: 4, with rk4 36, unless given."),
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", metavar="X", help="Of the vocoder; 0 turns it off and halves its work.")
]
Chunks = Annotated[
    str | None,
    typer.Option(
        "--chunks",
        metavar="KIND",
        help="Chunks of speech: growing (default); paced, sized by the clock, samples vary; exact, starts later.",
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", min=0, help="Same seed, same reply, speech samples included.")
]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="Cores to use. Default: all.")]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", metavar="N", min=1, help="Scale pictures down to N pixels; 784 take one position."),
]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="Keep one of the encoders and the vocoder in memory at a time; pauses between."),
]
Context = Annotated[
    int | None, typer.Option("--context", metavar="N", min=1, help="Positions the conversation may fill.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of text.")]
Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
