"""`omni-edge run`: one prompt, one reply."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from omni_cli import media, options
from omni_cli.default_bundle import resolve_bundle
from omni_cli.errors import INTERRUPTED, on_interrupt
from omni_cli.first_load import NoPrepare, prepare_at_first
from omni_cli.fit import FitOption, fitted
from omni_cli.outputs import check_output, check_wav_name
from omni_cli.plots.file import check_plot, write_plot
from omni_cli.plots.speech import speech_svg
from omni_cli.printer import JsonPrinter, Printer, TextPrinter
from omni_cli.standard_streams import is_stdout, is_text, read_stdin, stdout_for_bytes
from omni_edge import AudioChunk, OmniEdge, SessionSettings, TurnDone
from omni_edge.errors import UsageError
from omni_edge.media.wav import WavWriter


def run(
    *,
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What to say. '-', or none and a pipe: read from stdin."),
    ] = None,
    model: options.Model = None,
    audio: Annotated[
        list[Path] | None, typer.Option("--audio", metavar="FILE", help="A sound; '-': from stdin. Repeatable.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", metavar="FILE", help="A picture; '-': from stdin. Repeatable.")
    ] = None,
    video: Annotated[
        list[Path] | None, typer.Option("--video", metavar="FILE", help="A video; '-': from stdin. Repeatable.")
    ] = None,
    no_audio_in_video: options.NoVideoSound = False,
    no_speech: options.NoSpeech = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="WAV file for the speech; it grows during the reply. - is stdout, the text then goes to stderr.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Waveform and spectrogram of the speech, as an SVG picture."),
    ] = None,
    settings: SessionSettings,
    max_new_tokens: options.MaxNewTokens = None,
    max_codec_tokens: options.MaxCodecTokens = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    low_memory: options.LowMemory = False,
    fit: FitOption = None,
    no_prepare: NoPrepare = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Answer one prompt. Media stand before it in the user's turn, in the order in which they are given.

    Text streams to stdout. Speech is made when -o, --plot or --json asks for it. With --temp 0 --talker-temp 0 or
    with --seed the same command gives the same reply.
    """
    parts = media.in_order(context, {"audio": audio or [], "image": image or [], "video": video or []})
    to_stdout = output is not None and is_stdout(output)
    _check_outputs(output, plot, [path for _, path in parts], to_stdout=to_stdout, as_json=as_json, mute=no_speech)
    text = _prompt(prompt, needed=not parts, stdin_is_media=media.from_stdin(parts, prompt))
    folder = resolve_bundle(model)
    for option, file in (("-o", output), ("--plot", plot)):
        if file and not to_stdout:
            check_output(file, option, [folder])
    prepare_at_first(folder, wanted=not no_prepare, device=device)
    settings, low_memory = fitted(fit, folder, settings, low_memory)
    engine = OmniEdge.load(folder, threads=threads, low_memory=low_memory, device=device)
    wanted = not no_speech and (output is not None or plot is not None or as_json)
    session = engine.session(settings, speech=_speech(output or plot, wanted=wanted))
    for kind, path in parts:
        session.push(media.load(kind, path, engine.manifest, sound=not no_audio_in_video, stdin=True))
    if text:
        session.push(text)
    printer: Printer = JsonPrinter(model=str(folder)) if as_json else TextPrinter(sys.stderr if to_stdout else None)
    token2wav = engine.manifest.token2wav
    wav = (
        WavWriter(stdout_for_bytes() if to_stdout else output, token2wav.sample_rate) if output and token2wav else None
    )
    speech_samples: list[NDArray[np.float32]] = []
    with on_interrupt(session.cancel), wav or nullcontext():
        for event in session.reply(max_new_tokens=max_new_tokens, max_codec_tokens=max_codec_tokens):
            printer.show(event)
            if isinstance(event, AudioChunk):
                if wav:
                    wav.write(event.samples)
                if plot:
                    speech_samples.append(event.samples)
            if isinstance(event, TurnDone):
                _report_finish(event)
                if plot and token2wav:
                    _draw(plot, speech_samples, token2wav.sample_rate, event.text, session.voice)


def _check_outputs(
    output: Path | None, plot: Path | None, inputs: list[Path], *, to_stdout: bool, as_json: bool, mute: bool
) -> None:
    """Refuses what cannot be written as it is asked for, before any work is done."""
    for option, file in (("-o", output), ("--plot", plot)):
        if file and mute:
            raise UsageError(f"{option} asks for speech and --no-speech forbids it. Leave one of them out.")
    if to_stdout and as_json:
        raise UsageError("--json and -o would both write to stdout. The JSON lines hold the samples: leave -o out.")
    if to_stdout and sys.stdout.isatty():
        raise UsageError("stdout is a terminal, which cannot play a WAV file. Pipe it, or name a file with -o.")
    if output and not to_stdout:
        check_wav_name(output)
        check_output(output, "-o", inputs)
    if plot:
        check_plot(plot)
        check_output(plot, "--plot", inputs)


def _draw(plot: Path, speech_samples: list[NDArray[np.float32]], rate: int, text: str, voice: str) -> None:
    """The picture of a complete reply; one without a sound has none."""
    if speech_samples:
        write_plot(plot, speech_svg(np.concatenate(speech_samples), rate, text, voice))
    else:
        typer.echo(f"warning: the reply has no sound, so {plot} was not drawn.", err=True)


def _speech(output: Path | None, *, wanted: bool) -> bool | None:
    """What to ask the session for: a file insists on speech, `--json` takes it where the bundle speaks."""
    return (True if output else None) if wanted else False


def _prompt(prompt: str | None, *, needed: bool, stdin_is_media: bool) -> str:
    """The prompt's text: the argument, or stdin where that is meant.

    Raises:
        UsageError: there is none and `needed`, or it is not text.
    """
    if prompt == "-" or (prompt is None and not stdin_is_media and not sys.stdin.isatty()):
        prompt = read_stdin().strip("\n")
        if not is_text(prompt):
            raise UsageError("The prompt is not UTF-8 text. Sound, images and videos go in as files.")
    if not prompt and needed:
        raise UsageError("There is no prompt. Write one as an argument, pipe it in, or give a file: --audio F.")
    return prompt or ""


def _report_finish(done: TurnDone) -> None:
    if done.finish_reason == "cancelled":
        raise typer.Exit(INTERRUPTED)
    if done.finish_reason == "context_full":
        typer.echo("warning: the context is full, the reply ends here. Use a larger --context.", err=True)
