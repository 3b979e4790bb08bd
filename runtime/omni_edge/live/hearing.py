"""One microphone: samples in at their own pace, turns of the user out, cut and timed.

Samples are resampled once, here. Everything is counted in samples of the microphone, so results depend on the sound
alone, not on the pieces in which it arrives or on their pace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.audio.samples import validate_pcm, validate_rate
from omni_edge.live.noise_floor import FIRST_FRAMES
from omni_edge.live.settings import TurnSettings
from omni_edge.live.turn_detector import Transition, TurnDetector, TurnState
from omni_edge.live.voice_detector import FRAME_SAMPLES, FRAME_SECONDS, VOICE_RATE, VoiceState

# What a model of complete sentences gets at most.
_SENTENCE_SAMPLES = 8 * VOICE_RATE
_NOTHING = np.zeros(0, np.float32)

SentenceCompleteness = Callable[[NDArray[np.float32]], bool]
"""Whether a turn that pauses sounds complete: float32 [n] at 16 kHz, its last 8 s at most."""


class SpeechDetector(Protocol):
    """What `VoiceDetector` is to a microphone."""

    def step(self, frame: NDArray[np.float32], state: VoiceState) -> float:
        """The probability that the next frame, float32 [512] at 16 kHz, holds speech."""


@dataclass(frozen=True)
class Heard:
    """A piece of the user's turn.

    Attributes:
        transition: what happens before `samples`; None: the turn continues.
        samples: float32 [n] at 16 kHz; sound of the turn, each sample once and in order.
        time: end of the speech where the turn paused or ended, else begin of `samples`; seconds since the first sample.
    """

    transition: Transition | None
    samples: NDArray[np.float32]
    time: float


class EchoGate:
    """Half duplex: mutes the microphone while a reply is played and until its echo is gone.

    Args:
        tail: seconds after the last played sample.
    """

    def __init__(self, tail: float) -> None:
        self._tail = tail
        self._left = 0.0

    def muted(self, seconds: float, playing: bool) -> bool:
        """Whether the next `seconds` of the microphone are muted, and whether a reply is `playing` during them."""
        if playing:
            self._left = self._tail
            return True
        muted = self._left > 1e-9
        self._left = max(0.0, self._left - seconds)
        return muted


class Hearing:
    """The turns of one microphone.

    Args:
        detector: tells speech from other sound; None: push-to-talk, where `begin` and `end` make the turns.
        settings: the rules.
        complete: whether a sentence sounds complete. A turn that pauses and does not sound complete ends after
            `TurnSettings.give_up` instead of `TurnSettings.end_of_turn`. None: every pause is treated alike.

    Attributes:
        settings: the rules.
    """

    def __init__(
        self,
        detector: SpeechDetector | None,
        settings: TurnSettings | None = None,
        complete: SentenceCompleteness | None = None,
    ) -> None:
        self.settings = settings or TurnSettings()
        self._detector, self._complete = detector, complete
        self._turns = TurnDetector(self.settings, FRAME_SECONDS)
        self._pre_roll = round(self.settings.pre_roll * VOICE_RATE)
        self._voice, self._turn = VoiceState(), TurnState()
        self._rate, self._resample = VOICE_RATE, ResampleState()
        # 16 kHz samples that may still be needed; index of the first one, and of the first one not handed out.
        self._buffer = _NOTHING
        self._origin = 0
        self._taken = 0
        self._sentence: list[NDArray[np.float32]] = []

    @property
    def open(self) -> bool:
        """Whether the user's turn is open."""
        return self._turn.open

    @property
    def seconds(self) -> float:
        """Sound so far."""
        return (self._origin + self._buffer.size) / VOICE_RATE

    def step(self, samples: NDArray[Any], rate: int, playing: bool = False) -> list[Heard]:
        """Takes the next samples of the microphone.

        Args:
            samples: float or int16, [n] or [n, channels].
            rate: samples per second; another one than before is that of another microphone.
            playing: a reply is being played.

        Raises:
            MediaError: they are not sound.
        """
        mono = validate_pcm(samples)
        if validate_rate(rate) != self._rate:
            self._rate, self._resample = rate, ResampleState()
        converted = resampler(rate, VOICE_RATE).step(mono, self._resample)
        if converted is not None:
            self._buffer = np.concatenate([self._buffer, converted])
        if self._detector is None:
            return self._pushed_to_talk()
        heard: list[Heard] = []
        while self._origin + self._buffer.size >= (self._turn.frames + 1) * FRAME_SAMPLES:
            heard += self._frame(self._detector, playing)
        self._forget()
        return _joined(heard)

    def begin(self) -> list[Heard]:
        """Push-to-talk: the key went down."""
        if self._turn.open:
            return []
        self._turn.open = True
        self._taken = max(self._taken, self._end)
        return [Heard(Transition.STARTED, _NOTHING, self.seconds)]

    def end(self) -> list[Heard]:
        """Ends an open turn at once: the key went up, or the microphone has ended."""
        if not self._turn.open:
            return []
        rest = [] if self._turn.paused else [Heard(None, self._take(self._end), self.seconds)]
        time = (self._turn.last_speech + 1) * FRAME_SECONDS if self._detector else self.seconds
        self._turn.open = self._turn.paused = self._turn.incomplete = False
        self._turn.run_start = None
        return [*(part for part in rest if part.samples.size), Heard(Transition.ENDED, _NOTHING, time)]

    def _pushed_to_talk(self) -> list[Heard]:
        begin = self._taken
        samples = self._take(self._end)
        return [Heard(None, samples, begin / VOICE_RATE)] if self._turn.open and samples.size else []

    def _frame(self, detector: SpeechDetector, playing: bool) -> list[Heard]:
        turn = self._turn
        start = turn.frames * FRAME_SAMPLES - self._origin
        end = (turn.frames + 1) * FRAME_SAMPLES
        probability = detector.step(self._buffer[start : start + FRAME_SAMPLES], self._voice)
        transition = self._turns.step(probability, turn, playing)
        if transition is Transition.STARTED:
            self._taken = max(self._taken, self._first_frame(turn.started) * FRAME_SAMPLES - self._pre_roll, 0)
            self._sentence = []
        silent_from = (turn.last_speech + 1) * FRAME_SECONDS
        if transition is Transition.ENDED:
            return [Heard(transition, _NOTHING, silent_from)]
        if not turn.open or (turn.paused and transition is None):
            return []
        begin = self._taken
        samples = self._take(end)
        if self._complete is not None:
            self._sentence.append(samples)
        if transition is Transition.PAUSED:
            turn.incomplete = self._complete is not None and not self._complete(self._last_seconds())
            return [Heard(None, samples, begin / VOICE_RATE), Heard(transition, _NOTHING, silent_from)]
        return [Heard(transition, samples, begin / VOICE_RATE)]

    @property
    def _end(self) -> int:
        return self._origin + self._buffer.size

    def _take(self, end: int) -> NDArray[np.float32]:
        samples = self._buffer[max(0, self._taken - self._origin) : end - self._origin].copy()
        self._taken = end
        return samples

    def _last_seconds(self) -> NDArray[np.float32]:
        sentence = np.concatenate(self._sentence)[-_SENTENCE_SAMPLES:]
        self._sentence = [sentence]
        return sentence

    def _first_frame(self, frame: int) -> int:
        """The first frame of a turn that is known from `frame` on.

        A user who speaks from the first sample on differs from a murmur at the first pause only.
        """
        first = self._voice.first_speech
        return frame if first is None or self._turn.frames > FIRST_FRAMES else min(frame, first)

    def _forget(self) -> None:
        """Drops samples that no turn can need any more."""
        turn = self._turn
        frame = self._first_frame(turn.frames if turn.run_start is None else turn.run_start)
        first = frame * FRAME_SAMPLES - self._pre_roll
        if turn.open:
            first = min(first, self._taken)
        kept = max(0, first - self._origin)
        self._buffer, self._origin = self._buffer[kept:], self._origin + kept


def _joined(heard: list[Heard]) -> list[Heard]:
    """The same with neighbouring pieces of sound put together."""
    joined: list[Heard] = []
    for part in heard:
        if joined and part.transition is None and joined[-1].samples.size:
            last = joined[-1]
            joined[-1] = Heard(last.transition, np.concatenate([last.samples, part.samples]), last.time)
        else:
            joined.append(part)
    return joined
