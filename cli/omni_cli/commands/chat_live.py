"""`omni-edge chat` that listens: microphone in, loudspeaker out, states and text on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import typer
from numpy.typing import NDArray

from omni_cli.errors import report
from omni_cli.keys import END
from omni_cli.live_speaker import LiveSpeaker
from omni_cli.printer import TextPrinter
from omni_cli.speech_out import SpeechOut
from omni_edge import AudioChunk, Session, TextDelta, TurnDone
from omni_edge.errors import ContextFullError, OmniEdgeError
from omni_edge.events import PcmBlock
from omni_edge.live.duplex import Duplex
from omni_edge.live.events import Interrupted, LiveEvent, SpeechResumed, SpeechStarted, SpeechStopped

KEYS = "Keys: space interrupts, t types a line, m mutes the microphone, q leaves."
PUSH_TO_TALK_KEYS = "Keys: space begins and ends your turn, t types a line, q leaves."


@dataclass
class Reply:
    """What the line behind a reply says; times in seconds, those of events on `clock`."""

    speech_ended: float
    first_text: float | None = None
    first_sound: float | None = None


class LiveChat:
    """One live conversation.

    Args:
        session: its state.
        duplex: the conversation.
        speaker: the loudspeaker; None: replies are text.
        files: other places for the speech.
        push_to_talk: a key begins and ends the user's turns.
        clock: seconds.
    """

    def __init__(
        self,
        session: Session,
        duplex: Duplex,
        speaker: LiveSpeaker | None,
        files: Sequence[SpeechOut] = (),
        *,
        push_to_talk: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._duplex, self._speaker = session, duplex, speaker
        self._files, self._push_to_talk, self._clock = list(files), push_to_talk, clock
        self._printer = TextPrinter()
        self._reply: Reply | None = None
        self._in_line = self._in_file = False
        self._muted = self._talking = self._left = False

    # -- from the threads of devices and keys ------------------------------------------------------------------

    def take(self, block: NDArray[np.float32], rate: int) -> None:
        """The microphone's next block, float32 [n]."""
        self._duplex.push(PcmBlock(np.zeros_like(block) if self._muted else block, rate))

    def press(self, key: str, read_line: Callable[[str], str]) -> None:
        """A key; `read_line` asks for a whole line."""
        match key:
            case " " if self._push_to_talk:
                self._talking = not self._talking
                if self._talking:
                    self._duplex.begin_turn()
                else:
                    self._duplex.end_turn()
            case " ":
                self._duplex.interrupt()
            case "m" if not self._push_to_talk:
                self._muted = not self._muted
                say("[microphone muted; m again: on]" if self._muted else "[microphone on]")
            case "t":
                if (text := read_line("> ")).strip():
                    self._duplex.ask(text)
            case _ if key in ("q", END):
                self._left = True
                self._duplex.interrupt()
                self._duplex.close()

    # -- on the conversation's thread --------------------------------------------------------------------------

    def run(self) -> None:
        """Talks until q is pressed or the conversation is closed."""
        while not self._left and not self._run():
            pass
        self._duplex.leave()
        self._end_file()

    def _run(self) -> bool:
        """Talks until the conversation ends (True) or an error was reported (False)."""
        try:
            for event in self._duplex.events():
                self.show(event)
                if self._left:
                    break
        except ContextFullError:
            self._session.reset()
            say("warning: the context is full, so the conversation starts anew. A larger --context holds more.")
            return False
        except OmniEdgeError as error:
            report(error)
            return False
        return True

    def show(self, event: LiveEvent) -> None:
        """Shows an event: text on stdout, all else on stderr."""
        match event:
            case SpeechStarted():
                self._state("[listening]")
            case SpeechResumed():
                self._state("[listening on: what was said since is void]")
            case SpeechStopped(time=end):
                # The microphone keeps time: so long ago was the last sample of the speech.
                self._reply = Reply(self._clock() - (self._duplex.seconds - end))
                self._state("[thinking]")
            case Interrupted(text=text):
                self._state(f"[interrupted; heard: {text.strip()!r}]")
                self._end_file()
            case TextDelta() | AudioChunk() | TurnDone():
                self._show_reply(event)

    def _show_reply(self, event: TextDelta | AudioChunk | TurnDone) -> None:
        now = self._clock()
        reply = self._reply = self._reply or Reply(now)
        if isinstance(event, TextDelta):
            reply.first_text = reply.first_text or now
            self._in_line = True
        elif isinstance(event, AudioChunk):
            reply.first_sound = reply.first_sound or now
            for place in self._files:
                if not self._in_file:
                    place.begin()
                place.write(event.samples)
            self._in_file = True
        self._printer.show(event)
        if isinstance(event, TurnDone):
            self._in_line, self._reply = False, None
            self._end_file()
            say(self._measured(reply, event))
            if event.finish_reason == "context_full":
                say("warning: the context is full. The next turn starts the conversation anew.")

    def _measured(self, reply: Reply, done: TurnDone) -> str:
        parts = []
        for name, at in (("first text", reply.first_text), ("first sound", reply.first_sound)):
            if at is not None:
                parts.append(f"{name} {at - reply.speech_ended:.2f} s")
        line = ", ".join(parts) + " after the end of your turn" if parts else "nothing to say"
        if done.metrics.rtf is not None:
            line += f", RTF {done.metrics.rtf:.2f}"
        if self._speaker is not None:
            line += f", underruns {self._speaker.underruns}"
        return f"[{line}; context {self._session.offset} of {self._session.capacity}]"

    def _state(self, text: str) -> None:
        if self._in_line:
            typer.echo()
            self._in_line = False
        say(text)

    def _end_file(self) -> None:
        if self._in_file:
            for place in self._files:
                place.end()
        self._in_file = False


def say(text: str) -> None:
    """A line for the user, on stderr."""
    typer.echo(text, err=True)
