"""`omni-edge`: run a bundle, talk with it, or look at it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from omni_cli import media, options
from omni_cli.commands import bench as bench_command
from omni_cli.commands import info as info_command
from omni_cli.commands.chat_loop import Chat, piped_lines, typed_lines
from omni_cli.console import human_bytes
from omni_cli.default_bundle import named_or_shipped
from omni_cli.errors import INTERRUPTED, mannered, on_interrupt, speak_utf8
from omni_cli.plots.file import check_plot, write_plot
from omni_cli.plots.speech import speech_svg
from omni_cli.printer import JsonPrinter, Printer, TextPrinter
from omni_cli.speech_out import Loudspeaker, SpeechOut, WavFolder
from omni_edge import AudioChunk, ChunkSchedule, OmniEdge, Sampling, SolverSettings, TurnDone
from omni_edge.backend import kernels
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import DeviceError, UsageError
from omni_edge.media.wav import WavWriter

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


@app.command(cls=media.MediaInOrder)
@mannered
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
    system: options.System = None,
    voice: options.Voice = None,
    no_speech: options.NoSpeech = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="WAV file for the speech; it grows while we speak."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Waveform and spectrogram of the speech, as an SVG picture."),
    ] = None,
    max_new_tokens: options.MaxNewTokens = None,
    max_codec_tokens: options.MaxCodecTokens = None,
    temp: options.Temp = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    repeat_penalty: options.RepeatPenalty = None,
    talker_temp: options.TalkerTemp = None,
    talker_top_k: options.TalkerTopK = None,
    talker_top_p: options.TalkerTopP = None,
    talker_repeat_penalty: options.TalkerRepeatPenalty = None,
    solver: options.Solver = None,
    evaluations: options.Evaluations = None,
    guidance: options.Guidance = None,
    chunks: options.Chunks = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    low_memory: options.LowMemory = False,
    max_pixels: options.MaxPixels = None,
    context_size: options.Context = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Answer one prompt. Media stand before it in the user's turn, in the order in which they are given.

    Text streams to stdout. Speech is made when -o, --plot or --json asks for it. With --temp 0 --talker-temp 0 or
    with --seed the same command gives the same reply.
    """
    parts = media.in_order(context, {"audio": audio or [], "image": image or [], "video": video or []})
    for option, file in (("-o", output), ("--plot", plot)):
        if file and no_speech:
            raise UsageError(f"{option} asks for speech and --no-speech forbids it. Leave one of them out.")
    if output and not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist. Create it, or choose another file with -o.")
    if plot:
        check_plot(plot)
    text = _prompt(prompt, needed=not parts, stdin_is_media=media.from_stdin(parts, prompt))
    folder = named_or_shipped(model)
    engine = OmniEdge.load(folder, threads=threads, low_memory=low_memory)
    session = engine.session(
        voice=voice,
        system=system,
        context=context_size,
        seed=seed,
        speech=_speech(output or plot, wanted=not no_speech and (output is not None or plot is not None or as_json)),
        sampling=Sampling(temp, top_k, top_p, repeat_penalty),
        talker_sampling=Sampling(talker_temp, talker_top_k, talker_top_p, talker_repeat_penalty),
        solver=SolverSettings.from_options(solver, evaluations, guidance),
        chunks=ChunkSchedule.named(chunks),
        max_pixels=max_pixels,
    )
    for kind, path in parts:
        session.push(media.load(kind, path, engine.manifest, sound=not no_audio_in_video, stdin=True))
    if text:
        session.push(text)
    printer: Printer = JsonPrinter(model=str(folder)) if as_json else TextPrinter()
    token2wav = engine.manifest.token2wav
    wav = WavWriter(output, token2wav.sample_rate) if output and token2wav else None
    spoken: list[NDArray[np.float32]] = []
    with on_interrupt(session.cancel), wav or nullcontext():
        for event in session.reply(max_new_tokens=max_new_tokens, max_codec_tokens=max_codec_tokens):
            printer.show(event)
            if isinstance(event, AudioChunk):
                if wav:
                    wav.write(event.samples)
                if plot:
                    spoken.append(event.samples)
            if isinstance(event, TurnDone):
                _say_how_it_ended(event)
                if plot and token2wav:
                    _draw(plot, spoken, token2wav.sample_rate, event.text, session.voice)


def _draw(plot: Path, spoken: list[NDArray[np.float32]], rate: int, text: str, voice: str) -> None:
    """The picture of a complete reply; one without a sound has none."""
    if spoken:
        write_plot(plot, speech_svg(np.concatenate(spoken), rate, text, voice))
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
    try:
        if prompt == "-" or (prompt is None and not stdin_is_media and not sys.stdin.isatty()):
            prompt = sys.stdin.read().strip("\n")
        (prompt or "").encode("utf-8")
    except UnicodeError:
        raise UsageError("The prompt is not UTF-8 text. Sound, images and videos go in as files.") from None
    if not prompt and needed:
        raise UsageError("There is no prompt. Write one as an argument, pipe it in, or give a file: --audio F.")
    return prompt or ""


def _say_how_it_ended(done: TurnDone) -> None:
    if done.finish_reason == "cancelled":
        raise typer.Exit(INTERRUPTED)
    if done.finish_reason == "context_full":
        typer.echo("warning: the context is full, the reply ends here. Use a larger --context.", err=True)


@app.command()
@mannered
def chat(
    *,
    model: options.Model = None,
    no_audio_in_video: options.NoVideoSound = False,
    system: options.System = None,
    voice: options.Voice = None,
    no_speech: options.NoSpeech = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Keep the speech as reply-001.wav, ... in this folder."),
    ] = None,
    max_new_tokens: options.MaxNewTokens = None,
    max_codec_tokens: options.MaxCodecTokens = None,
    temp: options.Temp = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    repeat_penalty: options.RepeatPenalty = None,
    talker_temp: options.TalkerTemp = None,
    talker_top_k: options.TalkerTopK = None,
    talker_top_p: options.TalkerTopP = None,
    talker_repeat_penalty: options.TalkerRepeatPenalty = None,
    solver: options.Solver = None,
    evaluations: options.Evaluations = None,
    guidance: options.Guidance = None,
    chunks: options.Chunks = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    low_memory: options.LowMemory = False,
    max_pixels: options.MaxPixels = None,
    context_size: options.Context = None,
    debug: options.Debug = False,
) -> None:
    """Talk in turns. Type, attach files with /audio, /image and /video, listen; /help lists the commands.

    Ctrl-C during a reply cuts it short and keeps the conversation; at the prompt it leaves with 130, Ctrl-D with 0.
    From a pipe every line is a turn, and the first error ends it.
    """
    engine = OmniEdge.load(named_or_shipped(model), threads=threads, low_memory=low_memory)
    speech_out = [] if no_speech else _speech_out(engine, output)
    session = engine.session(
        voice=voice,
        system=system,
        context=context_size,
        seed=seed,
        speech=bool(speech_out),
        sampling=Sampling(temp, top_k, top_p, repeat_penalty),
        talker_sampling=Sampling(talker_temp, talker_top_k, talker_top_p, talker_repeat_penalty),
        solver=SolverSettings.from_options(solver, evaluations, guidance),
        chunks=ChunkSchedule.named(chunks),
        max_pixels=max_pixels,
    )
    interactive = sys.stdin.isatty()
    conversation = Chat(
        engine,
        session,
        speech_out,
        max_new_tokens=max_new_tokens,
        max_codec_tokens=max_codec_tokens,
        video_sound=not no_audio_in_video,
        forgiving=interactive,
    )
    conversation.run(typed_lines() if interactive else piped_lines())


def _speech_out(engine: OmniEdge, folder: Path | None) -> list[SpeechOut]:
    """The loudspeaker and the folder, as far as they exist; says so where there is no loudspeaker."""
    token2wav = engine.manifest.token2wav
    if token2wav is None:
        if folder:
            raise UsageError("The bundle is text-only: -o has nothing to keep. Export it without --text-only.")
        return []
    places: list[SpeechOut] = [WavFolder(folder, token2wav.sample_rate)] if folder else []
    try:
        places.append(Loudspeaker(token2wav.sample_rate))
    except DeviceError as error:
        what = "speech goes to files only" if folder else "replies are text; -o FOLDER keeps the speech as WAV files"
        typer.echo(f"No loudspeaker: {error}. So {what}.", err=True)
    return places


@app.command()
@mannered
def prepare(
    *,
    bundle: options.Bundle = None,
    debug: options.Debug = False,
) -> None:
    """Compile omni-edge's operators and pack a bundle's weights for this machine, once: everything then runs faster,
    loads faster and shares its memory between processes.

    Compiling needs a C compiler (cc, gcc, clang or $CC); without one, standard operators do the work. The packed copy
    goes into the user's cache folder, or into $OMNI_EDGE_CACHE; the bundle is not touched. Another processor or
    onnxruntime version ignores it; run the command again there.
    """
    opened = Bundle(named_or_shipped(bundle, "BUNDLE"), verify=True)
    typer.echo("compiling", err=True)
    if kernels.build() is None:
        reason = "OMNI_EDGE_KERNELS is 0" if kernels.switched_off() else "there is no C compiler; install one"
        typer.echo(f"Nothing is compiled ({reason}): standard operators, which are slower, do the work.", err=True)
    prepared = PreparedGraphs.for_bundle(opened)
    nbytes = prepared.build(lambda role: typer.echo(f"preparing {role}", err=True))
    typer.echo(f"{prepared.folder}  {human_bytes(nbytes)}")


app.command()(mannered(info_command.info))
app.command()(mannered(bench_command.bench))


def main() -> None:
    """Entry point of `omni-edge`."""
    speak_utf8()
    app()
