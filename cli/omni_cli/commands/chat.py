"""`omni-edge chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from omni_cli import options
from omni_cli.commands.chat_loop import Chat, piped_lines, typed_lines
from omni_cli.default_bundle import resolve_bundle
from omni_cli.speech_out import Loudspeaker, SpeechOut, WavFolder
from omni_edge import OmniEdge, SessionSettings
from omni_edge.errors import DeviceError, UsageError


def chat(
    *,
    model: options.Model = None,
    no_audio_in_video: options.NoVideoSound = False,
    no_speech: options.NoSpeech = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Keep the speech as reply-001.wav, ... in this folder."),
    ] = None,
    settings: SessionSettings,
    max_new_tokens: options.MaxNewTokens = None,
    max_codec_tokens: options.MaxCodecTokens = None,
    threads: options.Threads = None,
    low_memory: options.LowMemory = False,
    debug: options.Debug = False,
) -> None:
    """Talk in turns. Type, attach files with /audio, /image and /video, listen; /help lists the commands.

    Ctrl-C during a reply cuts it short and keeps the conversation; at the prompt it leaves with 130, Ctrl-D with 0.
    From a pipe every line is a turn, and the first error ends it.
    """
    if output and no_speech:
        raise UsageError("-o asks for speech and --no-speech forbids it. Leave one of them out.")
    engine = OmniEdge.load(resolve_bundle(model), threads=threads, low_memory=low_memory)
    speech_out = [] if no_speech else _speech_out(engine, output)
    session = engine.session(settings, speech=bool(speech_out))
    interactive = sys.stdin.isatty()
    conversation = Chat(
        engine,
        session,
        speech_out,
        max_new_tokens=max_new_tokens,
        max_codec_tokens=max_codec_tokens,
        video_sound=not no_audio_in_video,
        continue_after_errors=interactive,
    )
    conversation.run(typed_lines() if interactive else piped_lines())


def _speech_out(engine: OmniEdge, folder: Path | None) -> list[SpeechOut]:
    """The loudspeaker and the folder, as far as they exist; a warning where there is no loudspeaker."""
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
