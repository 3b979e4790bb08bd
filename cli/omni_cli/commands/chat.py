"""`omni-edge chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from omni_cli import options
from omni_cli.commands.chat_listening import Echo, find_devices, listen
from omni_cli.commands.chat_loop import Chat, piped_lines, typed_lines
from omni_cli.default_bundle import resolve_bundle
from omni_cli.errors import report
from omni_cli.first_load import NoPrepare, prepare_at_first
from omni_cli.fit import FitOption, fitted
from omni_cli.live_camera import camera_source
from omni_cli.session_options import default_settings
from omni_cli.sound_devices import choose_device, sound_devices
from omni_cli.speech_out import Loudspeaker, SpeechOut, WavFolder
from omni_cli.transcript import Transcript
from omni_edge import ChunkSchedule, OmniEdge, Session, SessionSettings
from omni_edge.errors import DeviceError, OmniEdgeError, UsageError
from omni_edge.live.sentence_detector import SentenceDetector

_LISTENING = "Listening"


def chat(
    *,
    model: options.Model = None,
    no_audio_in_video: options.NoVideoSound = False,
    no_speech: options.NoSpeech = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Keep the speech as reply-001.wav, ... in this folder."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Put the conversation into this file at the end.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Take up a conversation that --save put away, and its settings."),
    ] = None,
    transcript: Annotated[
        Path | None,
        typer.Option(
            "--transcript", metavar="FILE", help="Append what was said and answered to this text file, with times."
        ),
    ] = None,
    typed: Annotated[
        bool, typer.Option("--typed", help="Type turns, also where there is a microphone.", rich_help_panel=_LISTENING)
    ] = False,
    push_to_talk: Annotated[
        bool,
        typer.Option("--push-to-talk", help="The space key begins and ends your turn.", rich_help_panel=_LISTENING),
    ] = False,
    device_in: Annotated[
        str | None,
        typer.Option(
            "--device-in",
            metavar="NAME",
            help="The microphone: its number or a part of its name, see 'omni-edge devices'.",
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    device_out: Annotated[
        str | None,
        typer.Option(
            "--device-out",
            metavar="NAME",
            help="The loudspeaker, named in the same way.",
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            metavar="N|FILE",
            help="Show what this camera sees, by its number, see 'omni-edge devices'; or a video file in its place.",
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    echo: Annotated[
        Echo,
        typer.Option(
            "--echo",
            help="half: mute the microphone while a reply is played. apm: subtract the loudspeaker's sound (extra "
            "'echo'). off: leave it, for headphones or the system's canceller. auto: off where the loudspeaker's name "
            "says headphones, else apm where it is installed, else half.",
            rich_help_panel=_LISTENING,
        ),
    ] = Echo.AUTO,
    smart_turn: Annotated[
        Path | None,
        typer.Option(
            "--smart-turn",
            metavar="FILE",
            help="Smart Turn v3.2's ONNX file: a pause inside a sentence does not end your turn (for 3 s).",
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    settings: SessionSettings,
    max_new_tokens: options.MaxNewTokens = None,
    max_codec_tokens: options.MaxCodecTokens = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    low_memory: options.LowMemory = False,
    fit: FitOption = None,
    no_prepare: NoPrepare = False,
    debug: options.Debug = False,
) -> None:
    """Talk. In a terminal with a microphone it listens, and can be interrupted; else turns are typed.

    Typed turns: attach files with /audio, /image and /video; /help lists the commands. Ctrl-C during a reply cuts it
    short and keeps the conversation; at the prompt it leaves with 130, Ctrl-D with 0. From a pipe every line is a turn,
    and the first error ends it.
    """
    if output and no_speech:
        raise UsageError("-o asks for speech and --no-speech forbids it. Leave one of them out.")
    asked_to_listen = push_to_talk or any(each is not None for each in (device_in, smart_turn, camera))
    if typed and asked_to_listen:
        raise UsageError("--typed does not listen. Leave it out, or leave the other options of listening out.")
    if push_to_talk and smart_turn is not None:
        raise UsageError("With --push-to-talk the key ends your turn. Leave it or --smart-turn out.")
    if resume and settings != default_settings():
        raise UsageError("--resume continues with the settings of the file. Leave the other settings out.")
    interactive = _interactive()
    if asked_to_listen and not interactive:
        raise UsageError("Listening needs a terminal for its keys. From a pipe, turns are text.")
    seen = None if camera is None else camera_source(camera)
    folder = resolve_bundle(model)
    prepare_at_first(folder, wanted=not no_prepare, device=device)
    settings, low_memory = fitted(fit, folder, settings, low_memory)
    engine = OmniEdge.load(folder, threads=threads, low_memory=low_memory, device=device)
    listening = None
    if interactive and not typed:
        listening = find_devices(device_in, device_out, push_to_talk=push_to_talk, required=asked_to_listen)
    speech_out: list[SpeechOut] = []
    if not no_speech:
        speech_out = _files(engine, output) if listening else _speech_out(engine, output, device_out)
    speaks = not no_speech and engine.manifest.token2wav is not None if listening else bool(speech_out)
    if listening and settings.chunks is None:
        settings = replace(settings, chunks=ChunkSchedule.named("paced"))
    session = engine.resume(resume) if resume else engine.session(settings, speech=speaks)
    limits = {"max_new_tokens": max_new_tokens, "max_codec_tokens": max_codec_tokens}
    with _saved_at_the_end(session, save), _transcript(transcript) as written:
        if listening:
            complete = None if smart_turn is None else SentenceDetector(smart_turn)
            listen(
                session,
                engine,
                listening,
                speech_out,
                echo=listening.echo(echo),
                camera=seen,
                save=lambda: _save_now(session, save),
                transcript=written,
                complete=complete,
                **limits,
            )
            return
        conversation = Chat(
            engine,
            session,
            speech_out,
            video_sound=not no_audio_in_video,
            continue_after_errors=interactive,
            transcript=written,
            **limits,
        )
        conversation.run(typed_lines() if interactive else piped_lines())


def _interactive() -> bool:
    """Whether a person sits at a terminal."""
    return sys.stdin.isatty()


@contextmanager
def _saved_at_the_end(session: Session, file: Path | None) -> Iterator[None]:
    """Within it, the conversation is saved however it ends; an error keeps its own message."""
    try:
        yield
    except BaseException:
        if file is not None:
            try:
                session.save(file)
            except OmniEdgeError as error:
                report(error)
        raise
    if file is not None:
        session.save(file)


def _save_now(session: Session, file: Path | None) -> Path:
    """Saves the conversation under the name of --save, or under the time; returns the file."""
    file = file or Path(datetime.now().strftime("talk-%Y%m%d-%H%M%S.omni"))
    session.save(file)
    return file


@contextmanager
def _transcript(file: Path | None) -> Iterator[Transcript | None]:
    """Within it, the transcript is open; an error keeps its own message."""
    if file is None:
        yield None
        return
    transcript = Transcript(file, lambda sentence: typer.echo(sentence, err=True))
    try:
        yield transcript
    except BaseException:
        try:
            transcript.close()
        except OmniEdgeError as error:
            report(error)
        raise
    transcript.close()


def _files(engine: OmniEdge, folder: Path | None) -> list[SpeechOut]:
    """The folder for speech, where one is named."""
    token2wav = engine.manifest.token2wav
    if folder and token2wav is None:
        raise UsageError("The bundle is text-only: -o has nothing to keep. Export it without --text-only.")
    return [WavFolder(folder, token2wav.sample_rate)] if folder and token2wav else []


def _speech_out(engine: OmniEdge, folder: Path | None, device: str | None) -> list[SpeechOut]:
    """The loudspeaker and the folder, as far as they exist; a warning where there is no loudspeaker.

    Raises:
        DeviceError: there is no loudspeaker `device`.
    """
    token2wav = engine.manifest.token2wav
    places = _files(engine, folder)
    if token2wav is None:
        return places
    chosen = None if device is None else choose_device(sound_devices(), "output", device)
    try:
        places.append(Loudspeaker(token2wav.sample_rate, chosen))
    except DeviceError as error:
        what = "speech goes to files only" if folder else "replies are text; -o FOLDER keeps the speech as WAV files"
        typer.echo(f"No loudspeaker: {error}. So {what}.", err=True)
    return places
