"""The sound that a client appends: turns of the user, cut by voice detection or by the client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.live.hearing import Heard, Hearing, SentenceCompleteness
from omni_edge.live.turn_detector import Transition
from omni_edge.live.voice_detector import VoiceDetector
from omni_edge.serve.cached_conversation import LiveSound
from omni_edge.serve.realtime.items import Item, new_id
from omni_edge.serve.realtime.session_config import TurnDetection


@dataclass
class Turn:
    """A turn of the user that is open.

    Attributes:
        item_id: of the item that it becomes.
        sound: what was said so far.
        pictures: items of pictures that the client added meanwhile.
    """

    item_id: str
    sound: LiveSound
    pictures: list[Item] = field(default_factory=list)


class Microphone:
    """One client's sound.

    Args:
        detection: how turns end; None: by `commit`.
        detector: of speech; needed where `detection` is not None.
        complete: judges whether a sentence is complete; None: nothing does.
        began: seconds of sound that came before, in the time that clients are told.
    """

    def __init__(
        self,
        detection: TurnDetection | None,
        detector: VoiceDetector | None,
        complete: SentenceCompleteness | None = None,
        began: float = 0.0,
    ) -> None:
        self.detection, self._began = detection, began
        settings = None if detection is None else detection.turn_settings(judged=complete is not None)
        self._hearing = Hearing(None if detection is None else detector, settings, complete)
        self.turn: Turn | None = None
        if detection is None:
            self._open()

    @property
    def seconds(self) -> float:
        """Sound so far."""
        return self._began + self._hearing.seconds

    @property
    def said(self) -> bool:
        """Whether the open turn holds any sound."""
        return self.turn is not None and bool(self.turn.sound.pieces)

    def step(self, samples: NDArray[Any], rate: int) -> list[Heard]:
        """Takes the next samples; for a helper's thread. `apply` takes what comes out."""
        return self._hearing.step(samples, rate)

    def apply(self, heard: Heard) -> Turn | None:
        """Applies what was heard to the open turn; returns the turn where it is over."""
        if heard.transition is Transition.STARTED:
            self._start()
        if self.turn is not None and heard.samples.size:
            self.turn.sound.pieces.append(heard.samples)
        if heard.transition is Transition.ENDED:
            turn, self.turn = self.turn, None
            return turn
        return None

    def time(self, heard: Heard) -> int:
        """When it was heard, in milliseconds."""
        return round(1000 * (self._began + heard.time))

    def commit(self) -> Turn | None:
        """Ends the open turn at once; None: there is none."""
        over: Turn | None = None
        for heard in self._hearing.end():
            over = self.apply(heard) or over
        if self.detection is None:
            self._open()
        return over

    def clear(self) -> None:
        """Forgets the open turn."""
        self._hearing.end()
        self.turn = None
        if self.detection is None:
            self._open()

    def _open(self) -> None:
        self._hearing.begin()
        self._start()

    def _start(self) -> None:
        item_id = new_id("item")
        self.turn = Turn(item_id, LiveSound(f"live {item_id}"))


def piece_seconds(samples: NDArray[Any], rate: int) -> list[NDArray[Any]]:
    """Samples in pieces of a second, so that one client's hour does not keep the others' seconds waiting."""
    return np.split(samples, range(rate, samples.size, rate)) if samples.size else []
