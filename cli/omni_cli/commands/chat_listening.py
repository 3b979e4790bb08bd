"""The devices of a `chat` that listens, and how they are put together with the conversation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import typer

from omni_cli import echo_canceller
from omni_cli.commands.chat_live import LiveChat
from omni_cli.echo_canceller import EchoCanceller
from omni_cli.keys import Keys
from omni_cli.live_camera import LiveCamera
from omni_cli.live_display import LiveDisplay, PlainDisplay
from omni_cli.live_speaker import LiveSpeaker
from omni_cli.microphone import Microphone
from omni_cli.sound_devices import SoundDevice, choose_device, sound_devices
from omni_cli.speech_out import SpeechOut
from omni_cli.transcript import Transcript
from omni_edge import ImageFrame, OmniEdge, Session
from omni_edge.errors import DeviceError, OmniEdgeError
from omni_edge.live.duplex import Duplex
from omni_edge.live.hearing import Hearing, SentenceCompleteness
from omni_edge.live.voice_detector import VoiceDetector
from omni_edge.media.quiet import quiet

_KEYS = "Keys: space interrupts, m mutes the microphone, v switches the camera, t types a line, s saves, q quits."
_PUSH_TO_TALK_KEYS = "Keys: space begins and ends your turn, v switches the camera, t types a line, s saves, q quits."


class Echo(StrEnum):
    """What keeps the conversation from answering its own replies."""

    AUTO = "auto"
    HALF = "half"
    OFF = "off"
    APM = "apm"


@dataclass(frozen=True)
class Devices:
    """What a live conversation uses.

    Attributes:
        microphone: recorded from.
        loudspeaker: played to; None: there is none.
        detector: tells speech from other sound; None: push-to-talk.
    """

    microphone: SoundDevice
    loudspeaker: SoundDevice | None
    detector: VoiceDetector | None

    def echo(self, wanted: Echo) -> Echo:
        """What `wanted` means for this loudspeaker and this installation: not AUTO."""
        if wanted is not Echo.AUTO:
            return wanted
        if self.loudspeaker is None or self.loudspeaker.headphones:
            return Echo.OFF
        return Echo.APM if echo_canceller.installed() else Echo.HALF


def find_devices(
    device_in: str | None, device_out: str | None, *, push_to_talk: bool, required: bool
) -> Devices | None:
    """The devices for listening; None: there is no microphone, or no voice detection, and neither was asked for.

    Raises:
        DeviceError: a device that was named, or the microphone where `required`, is missing.
        UsageError: voice detection is missing where `required`, or a name fits several devices.
    """
    try:
        devices = sound_devices()
        microphone = choose_device(devices, "input", device_in)
        detector = None if push_to_talk else VoiceDetector()
    except OmniEdgeError as error:
        if required:
            raise
        typer.echo(f"Not listening: {error} Turns are typed.", err=True)
        return None
    try:
        loudspeaker = choose_device(devices, "output", device_out)
    except DeviceError:
        if device_out is not None:
            raise
        return Devices(microphone, None, detector)
    return Devices(microphone, loudspeaker, detector)


def listen(
    session: Session,
    engine: OmniEdge,
    devices: Devices,
    files: Sequence[SpeechOut],
    *,
    echo: Echo,
    camera: int | Path | None = None,
    save: Callable[[], Path],
    transcript: Transcript | None = None,
    complete: SentenceCompleteness | None = None,
    max_new_tokens: int | None,
    max_codec_tokens: int | None,
) -> None:
    """A live conversation in the terminal, until q is pressed.

    Args:
        session: its state.
        engine: the session's.
        devices: the microphone and the loudspeaker.
        files: other places for the speech.
        echo: what is done against the loudspeaker's echo; not AUTO.
        camera: switched on from the start; None: the key v switches the first camera on.
        save: saves the conversation; returns the file.
        transcript: gets every turn.
        complete: whether a sentence sounds complete, see `Hearing`.
        max_new_tokens: longest reply, in text tokens; None: the bundle's default.
        max_codec_tokens: longest speech, in codec tokens; None: the bundle's default.

    Raises:
        DeviceError: the microphone or the loudspeaker cannot be opened.
    """
    token2wav = engine.manifest.token2wav
    push_to_talk = devices.detector is None
    keys_line = _PUSH_TO_TALK_KEYS if push_to_talk else _KEYS
    with ExitStack() as stack:
        # ALSA prints to stderr when a device vanishes; the display names it.
        stack.enter_context(quiet())
        display = _display(stack, keys_line)
        if transcript is not None:
            transcript.warn = display.note
        speaker = canceller = None
        if session.speech and token2wav is not None and devices.loudspeaker is not None:
            if echo is Echo.APM:
                canceller = EchoCanceller()
            played = canceller.play if canceller else None
            speaker = LiveSpeaker(token2wav.sample_rate, devices.loudspeaker, display.note, played)
            stack.callback(speaker.close)
        duplex = Duplex(
            session,
            Hearing(devices.detector, complete=complete),
            sink=speaker,
            half_duplex=echo is Echo.HALF and speaker is not None,
            max_new_tokens=max_new_tokens,
            max_codec_tokens=max_codec_tokens,
        )
        seeing = LiveCamera(
            0 if camera is None else camera,
            session.camera_fps,
            lambda picture: duplex.push_camera(ImageFrame(picture)),
            display.note,
        )
        stack.callback(seeing.close)
        chat = LiveChat(
            session, duplex, display, speaker, files, transcript, save, canceller, seeing, push_to_talk=push_to_talk
        )
        # Leaving by Ctrl-C or by an error forgets an open turn too, so that the conversation can be saved.
        stack.callback(chat.leave)
        microphone = Microphone(devices.microphone, chat.take, display.note)
        stack.callback(microphone.close)
        keys = Keys(lambda key: chat.press(key, keys.line))
        stack.enter_context(keys)
        display.note(f"Listening on {microphone.name!r}, {_speaks(speaker, echo)}")
        if camera is not None:
            seeing.switch()
        chat.run()


def _display(stack: ExitStack, keys: str) -> LiveDisplay:
    """The screen, or plain lines where the output is no terminal or one without a cursor."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        from omni_cli.live_screen import Screen  # noqa: PLC0415 -- rich takes 50 ms, which no other command needs

        screen = Screen(keys)
        if screen.drawable:
            return stack.enter_context(screen)
    display = PlainDisplay()
    display.note(keys)
    return display


def _speaks(speaker: LiveSpeaker | None, echo: Echo) -> str:
    if speaker is None:
        return "replies are text."
    meanwhile = {
        Echo.HALF: "the microphone is muted meanwhile (--echo off with headphones)",
        Echo.APM: "its echo is cancelled, so speak to interrupt",
    }.get(echo, "speak to interrupt")
    return f"speaking on {speaker.name!r}; {meanwhile}."
