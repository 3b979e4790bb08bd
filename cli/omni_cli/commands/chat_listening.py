"""The devices of a `chat` that listens, and how they are put together with the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from omni_cli.commands.chat_live import KEYS, PUSH_TO_TALK_KEYS, LiveChat, say
from omni_cli.keys import Keys
from omni_cli.live_speaker import LiveSpeaker
from omni_cli.microphone import Microphone
from omni_cli.sound_devices import SoundDevice, choose_device, sound_devices
from omni_cli.speech_out import SpeechOut
from omni_edge import OmniEdge, Session
from omni_edge.errors import DeviceError, OmniEdgeError
from omni_edge.live.duplex import Duplex
from omni_edge.live.hearing import Hearing, SentenceCompleteness
from omni_edge.live.voice_detector import VoiceDetector


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

    @property
    def loudspeaker_is_headphones(self) -> bool:
        """Whether the microphone cannot hear the replies."""
        return self.loudspeaker is None or self.loudspeaker.headphones


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
        say(f"Not listening: {error} Turns are typed.")
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
    half_duplex: bool,
    complete: SentenceCompleteness | None = None,
    max_new_tokens: int | None,
    max_codec_tokens: int | None,
) -> None:
    """A live conversation in the terminal, until q is pressed.

    Raises:
        DeviceError: the microphone or the loudspeaker cannot be opened.
    """
    token2wav = engine.manifest.token2wav
    push_to_talk = devices.detector is None
    with ExitStack() as stack:
        speaker = None
        if session.speech and token2wav is not None and devices.loudspeaker is not None:
            speaker = LiveSpeaker(token2wav.sample_rate, devices.loudspeaker, say)
            stack.callback(speaker.close)
        duplex = Duplex(
            session,
            Hearing(devices.detector, complete=complete),
            sink=speaker,
            half_duplex=half_duplex and speaker is not None,
            max_new_tokens=max_new_tokens,
            max_codec_tokens=max_codec_tokens,
        )
        chat = LiveChat(session, duplex, speaker, files, push_to_talk=push_to_talk)
        # Leaving by Ctrl-C or by an error forgets an open turn too, so that the conversation can be saved.
        stack.callback(duplex.leave)
        microphone = Microphone(devices.microphone, chat.take, say)
        stack.callback(microphone.close)
        keys = Keys(lambda key: chat.press(key, keys.line))
        stack.enter_context(keys)
        say(f"Listening on {microphone.name!r}, {_speaks(speaker, half_duplex)}")
        say(PUSH_TO_TALK_KEYS if push_to_talk else KEYS)
        chat.run()


def _speaks(speaker: LiveSpeaker | None, half_duplex: bool) -> str:
    if speaker is None:
        return "replies are text."
    echo = "the microphone is muted meanwhile (--echo off with headphones)" if half_duplex else "speak to interrupt"
    return f"speaking on {speaker.name!r}; {echo}."
