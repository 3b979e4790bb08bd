"""Turns from probabilities of speech: where the user begins, pauses, continues and ends. No clock, no sound, no model.

Time is counted in frames of the microphone, so the same sound gives the same turns at any speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from omni_edge.live.settings import TurnSettings


class Transition(Enum):
    """What a frame changes."""

    STARTED = "started"  # a turn begins; it started with the frame `TurnState.started`
    PAUSED = "paused"  # silence long enough to compute the reply in advance
    RESUMED = "resumed"  # speech again after PAUSED: the turn continues
    ENDED = "ended"  # the turn is over


@dataclass
class TurnState:
    """The state of one microphone.

    Attributes:
        frames: number of frames so far.
        run_start: first frame of the speech that is not a turn yet, or of what may continue a paused one; None: none.
        run_frames: frames of speech in that run.
        run_last: last frame of speech in that run.
        open: whether a turn is open.
        started: first frame of speech of the turn that is or was open last.
        last_speech: last frame of speech in it.
        paused: whether it is paused.
        incomplete: its sentence does not sound complete: the turn ends after `TurnSettings.give_up`.
    """

    frames: int = 0
    run_start: int | None = None
    run_frames: int = 0
    run_last: int = 0
    open: bool = False
    started: int = 0
    last_speech: int = 0
    paused: bool = False
    incomplete: bool = False


class TurnDetector:
    """The rules of `TurnSettings` on frames; immutable.

    Args:
        settings: the rules.
        frame_seconds: length of a frame.
    """

    def __init__(self, settings: TurnSettings, frame_seconds: float) -> None:
        self._settings = settings
        self._onset = self._frames(settings.onset, frame_seconds)
        self._interruption = self._frames(settings.interruption, frame_seconds)
        self._dip = self._frames(settings.dip, frame_seconds)
        self._speculation = self._frames(settings.speculation, frame_seconds)
        self._end = self._frames(settings.end_of_turn, frame_seconds)
        self._give_up = self._frames(settings.give_up, frame_seconds)

    @staticmethod
    def _frames(seconds: float, frame_seconds: float) -> int:
        return max(1, math.ceil(seconds / frame_seconds - 1e-9))

    def step(self, probability: float, state: TurnState, playing: bool = False) -> Transition | None:
        """Takes the next frame.

        Args:
            probability: that it holds speech.
            state: the microphone.
            playing: a reply is being played: only speech as long as `TurnSettings.interruption` begins a turn.
        """
        frame = state.frames
        state.frames += 1
        speaks = self._speaks(probability, state)
        if state.open and not state.paused:
            if speaks:
                state.last_speech = frame
            elif frame - state.last_speech >= self._speculation:
                state.paused = True
                return Transition.PAUSED
            return None
        self._run(speaks, frame, state)
        if state.run_start is not None and state.run_frames >= (self._interruption if playing else self._onset):
            return self._begin(state)
        silence = self._give_up if state.incomplete else self._end
        if state.open and state.run_start is None and frame - state.last_speech >= silence:
            state.open = state.paused = state.incomplete = False
            return Transition.ENDED
        return None

    def _speaks(self, probability: float, state: TurnState) -> bool:
        speech = (state.open and not state.paused) or state.run_start is not None
        return probability >= (self._settings.exit_threshold if speech else self._settings.threshold)

    def _run(self, speaks: bool, frame: int, state: TurnState) -> None:
        """Adds a frame to the run of speech, or forgets a run that was a short noise."""
        if speaks:
            if state.run_start is None:
                state.run_start, state.run_frames = frame, 0
            state.run_frames += 1
            state.run_last = frame
        elif state.run_start is not None and frame - state.run_last > self._dip:
            state.run_start = None

    def _begin(self, state: TurnState) -> Transition:
        assert state.run_start is not None
        resumed = state.open
        if not resumed:
            state.started = state.run_start
        state.open, state.paused, state.incomplete = True, False, False
        state.last_speech, state.run_start = state.run_last, None
        return Transition.RESUMED if resumed else Transition.STARTED
