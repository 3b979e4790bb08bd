"""What comes out of a live conversation, beside the `TextDelta`, `AudioChunk` and `TurnDone` of its replies."""

from __future__ import annotations

from dataclasses import dataclass

from omni_edge.events import Event


@dataclass(frozen=True)
class SpeechStarted:
    """The user's turn begins; `time` is that of its first sample, in seconds of the microphone."""

    time: float


@dataclass(frozen=True)
class SpeechStopped:
    """The user's turn is over, and the reply begins; `time` is the end of the speech, in seconds of the microphone."""

    time: float


@dataclass(frozen=True)
class SpeechResumed:
    """The user continues before anything was played: what came since `SpeechStopped` is void, the turn goes on.

    `time` is that of the first sample, in seconds of the microphone.
    """

    time: float


@dataclass(frozen=True)
class Interrupted:
    """The user interrupted the reply. The conversation keeps what was heard of it.

    Attributes:
        text: the words that were heard.
        tokens: the number of their tokens.
        seconds: speech that was played.
    """

    text: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Level:
    """The level of the microphone over 0.1 s.

    Attributes:
        decibels: root mean square below full scale; -120 at least.
        time: end of the 0.1 s, in seconds of the microphone.
        muted: half duplex: the microphone is muted while the reply is played.
    """

    decibels: float
    time: float
    muted: bool


@dataclass(frozen=True)
class ContextUse:
    """Positions of the context in use, and how many there are."""

    used: int
    capacity: int


@dataclass(frozen=True)
class TurnsEvicted:
    """The context was nearly full: the oldest turns left it, whole. The system prompt and later turns stay.

    Attributes:
        turns: how many left.
        positions: how many positions became free.
    """

    turns: int
    positions: int


@dataclass(frozen=True)
class TurnCut:
    """One turn of the user fills the context alone: the rest of it is not taken in; `time` is where that begins (s)."""

    time: float


@dataclass(frozen=True)
class Underrun:
    """A reply was silent, because its next sound came later than it was due; the silence ends now.

    Attributes:
        seconds: length of the silence.
        at_pause: whether the reply pauses there anyway, so that no word was cut.
    """

    seconds: float
    at_pause: bool


LiveEvent = (
    Event
    | SpeechStarted
    | SpeechStopped
    | SpeechResumed
    | Interrupted
    | Underrun
    | Level
    | ContextUse
    | TurnsEvicted
    | TurnCut
)
