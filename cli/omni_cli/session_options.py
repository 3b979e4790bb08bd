"""The options of a conversation, said once: commands take them as one `SessionSettings`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from omni_edge import ChunkSchedule, Sampling, SessionSettings, SolverSettings
from omni_edge.conversation.settings import DEFAULT_CONTEXT

_SPEECH_PANEL = "Speech"

System = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="System prompt. Default: the checkpoint's.")
]
Voice = Annotated[
    str | None,
    typer.Option(
        "--voice",
        metavar="NAME",
        help="Speaker. 'omni-edge info' lists the speakers of a bundle.",
        rich_help_panel=_SPEECH_PANEL,
    ),
]
Temp = Annotated[float | None, typer.Option("--temp", metavar="X", help="Temperature of the text; 0 is greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="N", help="Choose among the N best tokens; 0: all.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", metavar="X", help="Choose among the best tokens of probability X together.")
]
RepeatPenalty = Annotated[float | None, typer.Option("--repeat-penalty", metavar="X", help="Above 1: repeat less.")]
TalkerTemp = Annotated[
    float | None,
    typer.Option(
        "--talker-temp",
        metavar="X",
        help="Temperature of the speech; 0 is greedy.",
        rich_help_panel=_SPEECH_PANEL,
    ),
]
TalkerTopK = Annotated[
    int | None,
    typer.Option("--talker-top-k", metavar="N", help="--top-k of the speech.", rich_help_panel=_SPEECH_PANEL),
]
TalkerTopP = Annotated[
    float | None,
    typer.Option("--talker-top-p", metavar="X", help="--top-p of the speech.", rich_help_panel=_SPEECH_PANEL),
]
TalkerRepeatPenalty = Annotated[
    float | None,
    typer.Option(
        "--talker-repeat-penalty", metavar="X", help="--repeat-penalty of the speech.", rich_help_panel=_SPEECH_PANEL
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(
        "--solver",
        metavar="euler|ab2|rk4",
        help="Integration method of the vocoder. Default: euler; rk4 is the reference's.",
        rich_help_panel=_SPEECH_PANEL,
    ),
]
Evaluations = Annotated[
    int | None,
    typer.Option(
        "--evaluations",
        metavar="N",
        min=1,
        help="Vocoder network evaluations per chunk. Default: 4 (36 for rk4).",
        rich_help_panel=_SPEECH_PANEL,
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        metavar="X",
        help="Guidance weight of the vocoder. 0 turns it off and halves the work.",
        rich_help_panel=_SPEECH_PANEL,
    ),
]
Chunks = Annotated[
    str | None,
    typer.Option(
        "--chunks",
        metavar="KIND",
        help="Chunks of speech: growing (default); paced, sized by the clock, samples vary (default where 'chat' "
        "listens); exact, starts later.",
        rich_help_panel=_SPEECH_PANEL,
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", min=0, help="Same seed, same reply, speech samples included.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", metavar="N", min=1, help="Scale pictures down to N pixels; 784 take one position."),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=1,
        help=f"Positions that the conversation may fill. Default: {DEFAULT_CONTEXT}.",
    ),
]


def _settings(
    *,
    system: System = None,
    voice: Voice = None,
    temp: Temp = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repeat_penalty: RepeatPenalty = None,
    talker_temp: TalkerTemp = None,
    talker_top_k: TalkerTopK = None,
    talker_top_p: TalkerTopP = None,
    talker_repeat_penalty: TalkerRepeatPenalty = None,
    solver: Solver = None,
    evaluations: Evaluations = None,
    guidance: Guidance = None,
    chunks: Chunks = None,
    seed: Seed = None,
    max_pixels: MaxPixels = None,
    context_size: Context = None,
) -> SessionSettings:
    return SessionSettings(
        voice=voice,
        system=system,
        context=context_size,
        seed=seed,
        sampling=Sampling(temp, top_k, top_p, repeat_penalty),
        talker_sampling=Sampling(talker_temp, talker_top_k, talker_top_p, talker_repeat_penalty),
        solver=SolverSettings.from_options(solver, evaluations, guidance),
        chunks=None if chunks is None else ChunkSchedule.named(chunks),
        max_pixels=max_pixels,
    )


def default_settings() -> SessionSettings:
    """What a command gets where none of the options is given."""
    return _settings()


def takes_session_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces the parameter `settings` of a command by the options of a conversation.

    The options stand where `settings` stands in the command's signature, and so in its help.
    """
    options = inspect.signature(_settings, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in options}
        command(settings=_settings(**chosen), **values)

    shown = [
        option
        for name, parameter in own.items()
        for option in (options.values() if name == "settings" else [parameter])
    ]
    # What typer reads: the signature, and the annotations by name.
    wrapper.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {option.name: option.annotation for option in shown}
    return wrapper
