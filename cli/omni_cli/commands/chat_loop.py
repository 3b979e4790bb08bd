"""The turns of `omni-edge chat`: lines in, replies out."""

from __future__ import annotations

import importlib
import mimetypes
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import methodcaller
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from omni_cli import media
from omni_cli.commands.chat_lines import dropped_file, file_argument, split_command
from omni_cli.errors import on_interrupt, report
from omni_cli.outputs import check_wav_name
from omni_cli.printer import TextPrinter
from omni_cli.speech_out import SpeechOut
from omni_cli.standard_streams import is_text
from omni_cli.transcript import Transcript
from omni_edge import AudioChunk, OmniEdge, Session, TurnDone
from omni_edge.errors import DeviceError, OmniEdgeError, UsageError
from omni_edge.media.wav import WavWriter

HELP = """\
/audio FILE   attach a sound to the next turn; a file dropped into the terminal is attached too
/image FILE   attach a picture
/video FILE   attach a video
/voice NAME   change the speaker; without a name: list them
/save FILE    FILE.wav: the speech of the last reply; another name: the conversation as text
/reset        forget the conversation
/help         this list
/quit         leave (so does Ctrl-D); Ctrl-C cuts a reply short"""


def typed_lines() -> Iterator[str]:
    """Lines from the terminal, with its editing keys and history where Python has them."""
    with suppress(ImportError):
        importlib.import_module("readline")
    while True:
        try:
            line = input("> ")
        except EOFError:
            typer.echo()
            return
        yield line


def piped_lines() -> Iterator[str]:
    """Lines from stdin."""
    for line in sys.stdin:
        yield line.rstrip("\n")


class Chat:
    """One conversation.

    Args:
        engine: the weights.
        session: the conversation's state.
        speech_out: where speech goes; empty: nowhere.
        max_new_tokens: longest reply, in text tokens.
        max_codec_tokens: longest speech, in codec tokens.
        video_sound: videos come with their sound.
        continue_after_errors: report errors and continue, for a terminal; otherwise the first error is raised.
        transcript: gets every turn.
        transcript: gets every turn.
    """

    def __init__(
        self,
        engine: OmniEdge,
        session: Session,
        speech_out: Sequence[SpeechOut],
        *,
        max_new_tokens: int | None = None,
        max_codec_tokens: int | None = None,
        video_sound: bool = True,
        continue_after_errors: bool = False,
        transcript: Transcript | None = None,
    ) -> None:
        self._engine, self._session = engine, session
        self._speech_out = list(speech_out)
        self._max_new_tokens, self._max_codec_tokens = max_new_tokens, max_codec_tokens
        self._video_sound, self._continue_after_errors = video_sound, continue_after_errors
        self._printer = TextPrinter()
        self._transcript = transcript
        self._turns: list[str] = []
        self._attached: list[str] = []
        self._last_speech: list[NDArray[np.float32]] = []
        self._commands: dict[str, Callable[[str], None]] = {
            **{f"/{kind}": self._attacher(kind) for kind in media.KINDS},
            "/voice": self._voice,
            "/save": self._save,
            "/reset": self._reset,
            "/help": lambda _: typer.echo(HELP, err=True),
        }

    def run(self, lines: Iterable[str]) -> None:
        """Takes turns until `lines` end or one says /quit."""
        for line in lines:
            if line.strip() == "/quit":
                return
            try:
                self.take(line)
            except OmniEdgeError as error:
                if not self._continue_after_errors:
                    raise
                report(error)

    def take(self, line: str) -> None:
        """One line: a command, or a turn that is answered. An empty line sends what is attached, if anything is.

        Raises:
            OmniEdgeError: whatever is wrong with it; the conversation is as before.
        """
        if not is_text(line):
            raise UsageError("The line is not UTF-8 text. Set the terminal, or what is piped in, to UTF-8.")
        if dropped := dropped_file(line):
            self._attach(*dropped)
        elif words := split_command(line):
            name, argument = words
            command = self._commands.get(name)
            if command is None:
                raise UsageError(f"There is no {name}. /help lists the commands; a space before it makes it text.")
            command(argument)
        elif line.strip() or self._attached:
            self._answer(line)

    def _answer(self, text: str) -> None:
        if text.strip():
            self._session.push(text)
        self._record("user", " ".join([*self._attached, text]))
        self._attached = []
        self._last_speech = []
        self._each(methodcaller("begin"))
        with on_interrupt(self._stop):
            for event in self._session.reply(
                max_new_tokens=self._max_new_tokens, max_codec_tokens=self._max_codec_tokens
            ):
                self._printer.show(event)
                if isinstance(event, AudioChunk):
                    self._last_speech.append(event.samples)
                    self._each(methodcaller("write", event.samples))
                elif isinstance(event, TurnDone):
                    self._record("assistant", event.text)
                    if event.finish_reason == "context_full":
                        typer.echo("warning: the context is full. /reset starts afresh.", err=True)
            self._each(methodcaller("end"))

    def _record(self, speaker: str, text: str) -> None:
        self._turns.append(f"{speaker}: {text}")
        if self._transcript is not None:
            self._transcript.add(speaker, text)

    def _stop(self) -> None:
        self._session.cancel()
        for place in self._speech_out:
            place.stop()

    def _each(self, action: Callable[[SpeechOut], None]) -> None:
        """Does `action` with every place for speech; a device that vanished is reported once and left out."""
        self._speech_out = [place for place in self._speech_out if _works(place, action)]

    def _attacher(self, kind: str) -> Callable[[str], None]:
        def attach(argument: str) -> None:
            if not argument:
                raise UsageError(f"/{kind} needs the name of a file.")
            self._attach(kind, file_argument(argument))

        return attach

    def _attach(self, kind: str, path: Path) -> None:
        self._session.push(media.load(kind, path, self._engine.manifest, sound=self._video_sound))
        self._attached.append(f"[{kind} {path.name}]")
        typer.echo(f"attached: {kind} {path.name}", err=True)

    def _voice(self, argument: str) -> None:
        if argument:
            self._session.voice = argument
        else:
            typer.echo(f"voices: {', '.join(self._engine.voices)}; now {self._session.voice}", err=True)

    def _reset(self, argument: str) -> None:
        self._session.reset()
        self._turns, self._attached, self._last_speech = [], [], []

    def _save(self, argument: str) -> None:
        if not argument:
            raise UsageError("/save needs the name of a file: /save talk.txt or /save reply.wav.")
        path = file_argument(argument)
        if path.suffix.lower() != ".wav":
            if (mimetypes.guess_type(path.name)[0] or "").startswith("audio/"):
                check_wav_name(path)
            try:
                path.write_text("\n".join(self._turns) + "\n", "utf-8")
            except OSError as error:
                raise UsageError(f"{path} cannot be written ({error.strerror}). Choose another name.") from None
            return
        token2wav = self._engine.manifest.token2wav
        if token2wav is None or not self._last_speech:
            raise UsageError("The last reply has no speech to save. /save talk.txt saves the conversation.")
        with WavWriter(path, token2wav.sample_rate) as file:
            for samples in self._last_speech:
                file.write(samples)


def _works(place: SpeechOut, action: Callable[[SpeechOut], None]) -> bool:
    try:
        action(place)
    except DeviceError as error:
        typer.echo(f"warning: {error}", err=True)
        return False
    return True
