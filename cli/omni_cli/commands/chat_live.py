"""`omni-edge chat` that listens: events of the conversation and keys become what the display and the files show."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_cli.echo_canceller import EchoCanceller
from omni_cli.keys import END
from omni_cli.live_camera import LiveCamera
from omni_cli.live_display import CameraState, LiveDisplay, State, Status
from omni_cli.live_speaker import LiveSpeaker
from omni_cli.speech_out import SpeechOut
from omni_cli.transcript import Transcript
from omni_edge import AudioChunk, Session, TextDelta, TurnDone
from omni_edge.errors import ContextFullError, OmniEdgeError
from omni_edge.events import PcmBlock
from omni_edge.live.duplex import Duplex
from omni_edge.live.events import (
    ContextUse,
    Interrupted,
    Level,
    LiveEvent,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnCut,
    TurnsEvicted,
    Underrun,
)
from omni_edge.live.voice_detector import VOICE_RATE

# How often it looks whether playback ended or a key asked for something.
_POLL_SECONDS = 0.1


@dataclass
class Turn:
    """A turn of the user and its reply; times on the conversation's clock.

    Attributes:
        began: first sample, or when the line was typed.
        seconds: length of the speech; None: typed.
        typed: the line.
        ended: last sample of the speech, or when the line was typed; None: the turn is open.
        first_text, first_sound: when the first of each was shown or played; None: not yet.
        underruns: gaps inside words of the reply.
        waited: seconds that its playback waited at pauses.
        reply: its text; of one that was interrupted, what was heard.
        done: whether the reply is complete or was interrupted.
        cut: whether it was interrupted.
    """

    began: float
    seconds: float | None = None
    typed: str = ""
    ended: float | None = None
    first_text: float | None = None
    first_sound: float | None = None
    underruns: int = 0
    waited: float = 0.0
    reply: str = ""
    done: bool = False
    cut: bool = False

    def __str__(self) -> str:
        spoken = "" if self.seconds is None else f"(spoken, {self.seconds:.1f} s)"
        return f"{spoken} {self.typed}".strip()


class LiveChat:
    """One live conversation.

    Args:
        session: its state.
        duplex: the conversation.
        display: shows it.
        speaker: the loudspeaker; None: replies are text.
        files: other places for the speech.
        transcript: gets every turn.
        save: saves the conversation, for the key s; returns the file.
        canceller: subtracts the loudspeaker from the microphone.
        camera: for the key v; None: there is none.
        push_to_talk: a key begins and ends the user's turns.
        clock: seconds.
    """

    def __init__(
        self,
        session: Session,
        duplex: Duplex,
        display: LiveDisplay,
        speaker: LiveSpeaker | None = None,
        files: Sequence[SpeechOut] = (),
        transcript: Transcript | None = None,
        save: Callable[[], Path] = lambda: Path("talk.omni"),
        canceller: EchoCanceller | None = None,
        camera: LiveCamera | None = None,
        *,
        push_to_talk: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._duplex, self._display, self._speaker = session, duplex, display, speaker
        self._files, self._transcript, self._save = list(files), transcript, save
        self._canceller, self._camera = canceller, camera
        self._push_to_talk, self._clock = push_to_talk, clock
        self._status = Status(used=session.offset, capacity=session.capacity)
        self._turn: Turn | None = None
        self._typed: list[Turn] = []
        self._in_file = False
        self._talking = self._left = self._saving = False
        self._arrived = threading.Event()

    # -- from the threads of devices and keys ------------------------------------------------------------------

    def take(self, block: NDArray[np.float32], rate: int) -> None:
        """The microphone's next block, float32 [n]."""
        if self._canceller is not None:
            block, rate = self._canceller.clean(block, rate), VOICE_RATE
        if block.size:
            self._duplex.push(PcmBlock(np.zeros_like(block) if self._status.muted else block, rate))
            self._arrived.set()

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
                self._status.muted = not self._status.muted
                self._display.refresh(self._status)
            case "v" if self._camera is not None:
                self._camera.switch()
            case "t":
                with self._display.suspended():
                    text = read_line("> ")
                if text.strip():
                    now = self._clock()
                    self._typed.append(Turn(now, typed=text.strip(), ended=now))
                    self._duplex.ask(text)
            case "s":
                self._saving = True
            case _ if key in ("q", END):
                self._left = True
                # Stops the computation at its next step.
                self._duplex.interrupt()
        self._arrived.set()

    # -- on the conversation's thread --------------------------------------------------------------------------

    def run(self) -> None:
        """Talks until q is pressed."""
        while not self._left:
            self._arrived.clear()
            self._run()
            self._arrived.wait(_POLL_SECONDS)

    def leave(self) -> None:
        """Ends the conversation; a turn that is not over is forgotten."""
        for event in self._duplex.leave():
            self.show(event)
        self._end_file()
        self._end_turn()

    def _run(self) -> None:
        """Shows what happened since; computes while there is something to compute."""
        try:
            for event in self._duplex.events(wait=False):
                self.show(event)
                if self._left:
                    return
            self._look()
            if self._speaker is not None and not self._duplex.answering:
                self._speaker.check()
            if self._saving and self._turn is None:
                self._saving = False
                self._display.note(f"Saved as {self._save()}.")
        except ContextFullError:
            self._session.reset()
            self._display.note(
                "warning: the context is full, so the conversation starts anew. A larger --context holds more."
            )
            self._fail()
        except OmniEdgeError as error:
            self._display.note(f"error: {error}")
            self._fail()

    def show(self, event: LiveEvent) -> None:
        """Takes an event."""
        match event:
            case Level():
                self._status.decibels, self._status.gated = event.decibels, event.muted
            case ContextUse():
                self._status.used, self._status.capacity = event.used, event.capacity
            case TurnsEvicted():
                left = "turn has left it" if event.turns == 1 else f"{event.turns} turns have left it"
                self._display.note(f"The context was nearly full: the oldest {left}.")
            case TurnCut():
                self._display.note("warning: your turn fills the context, so the rest of it is not taken in.")
            case Underrun() if self._turn is not None:
                if event.at_pause:
                    self._turn.waited += event.seconds
                else:
                    self._turn.underruns += 1
            case SpeechStarted(time=start):
                self._end_turn()
                self._turn = Turn(self._at(start))
            case SpeechResumed():
                self._display.void()
                if self._turn is not None:
                    self._turn = Turn(self._turn.began)
            case SpeechStopped(time=end):
                # The microphone keeps time: so long ago was the last sample of the speech.
                self._ask(self._turn or Turn(self._at(end)), self._at(end))
            case Interrupted():
                self._interrupted(event)
            case TextDelta() | AudioChunk() | TurnDone():
                self._reply(event)
        self._look()

    def _at(self, seconds: float) -> float:
        """The clock's time at a sample of the microphone."""
        return self._clock() - (self._duplex.seconds - seconds)

    def _look(self) -> None:
        """Shows what the conversation does now."""
        if self._turn is not None and self._turn.done and not self._duplex.answering:
            self._end_turn()
        if self._turn is not None and self._turn.ended is not None and self._duplex.playing:
            self._turn.first_sound = self._turn.first_sound or self._clock()
        if self._turn is not None and self._turn.ended is None:
            self._status.state = State.LISTENING
        elif self._duplex.playing:
            self._status.state = State.SPEAKING
        else:
            # A reply may be in progress before the event of its turn is taken.
            asked = self._turn is not None or bool(self._typed)
            self._status.state = State.THINKING if asked and self._duplex.answering else State.WAITING
        # A camera that was never on is not shown.
        if self._camera is not None and (self._status.camera is not None or self._camera.state is not CameraState.OFF):
            self._status.camera = self._camera.state
        self._display.refresh(self._status)

    def _ask(self, turn: Turn, ended: float) -> None:
        """The speech of a turn is over."""
        self._turn = turn
        turn.ended, turn.seconds = ended, ended - turn.began
        self._display.said(str(turn))

    def _answered(self) -> Turn:
        """The turn that a reply belongs to; a typed line begins or ends one without an event of its own."""
        turn = self._turn
        if turn is not None and turn.done:
            self._end_turn()
            turn = None
        if turn is not None and turn.ended is not None:
            return turn
        typed = self._typed.pop(0) if self._typed else Turn(self._clock(), ended=self._clock())
        if turn is None:
            self._turn = typed
            return typed
        self._ask(turn, typed.began)
        turn.typed = typed.typed
        return turn

    def _reply(self, event: TextDelta | AudioChunk | TurnDone) -> None:
        turn = self._answered()
        if isinstance(event, TextDelta):
            turn.first_text = turn.first_text or self._clock()
            turn.reply += event.text
            self._display.write(event.text)
        elif isinstance(event, AudioChunk):
            for place in self._files:
                if not self._in_file:
                    place.begin()
                place.write(event.samples)
            self._in_file = True
        else:
            self._look()
            turn.done = True
            self._end_file()
            self._status.used = self._session.offset
            self._display.refresh(self._status)
            self._display.end_reply(self._figures(turn, event.metrics.rtf))
            if event.finish_reason == "context_full":
                self._display.note("warning: the context is full. The next turn starts the conversation anew.")

    def _interrupted(self, event: Interrupted) -> None:
        done = self._turn is not None and self._turn.done
        turn = self._turn if done and self._turn is not None else self._answered()
        heard = f"interrupted; heard: {event.text.strip()!r}"
        self._display.end_reply(heard if done else f"{heard}; {self._figures(turn, None)}")
        turn.reply, turn.done, turn.cut = event.text, True, True
        self._end_file()
        self._end_turn()

    def _figures(self, turn: Turn, rtf: float | None) -> str:
        ended = turn.ended if turn.ended is not None else turn.began
        arrivals = {"first text": turn.first_text, "first sound": turn.first_sound}
        parts = [f"{name} {at - ended:.2f} s" for name, at in arrivals.items() if at is not None]
        line = ", ".join(parts) + " after the end of your turn" if parts else "nothing to say"
        if rtf is not None:
            line += f", RTF {rtf:.2f}"
        if self._speaker is not None:
            line += f", underruns {turn.underruns}"
        return line + (f", {turn.waited:.1f} s of silence between phrases" if turn.waited else "")

    def _fail(self) -> None:
        """An error dropped the user's turn."""
        if self._typed and (self._turn is None or self._turn.ended is not None):
            self._end_turn()
            self._turn = self._typed.pop(0)
        self._end_turn()

    def _end_turn(self) -> None:
        """Puts the turn into the transcript."""
        turn, self._turn = self._turn, None
        if turn is None or turn.ended is None or self._transcript is None:
            return
        now = self._clock()
        self._transcript.add("user", str(turn), now - turn.began)
        if turn.done:
            first = turn.first_text or turn.first_sound or now
            self._transcript.add("assistant (interrupted)" if turn.cut else "assistant", turn.reply, now - first)

    def _end_file(self) -> None:
        if self._in_file:
            for place in self._files:
                place.end()
        self._in_file = False
