"""Mel to samples, in blocks: BigVGAN by overlap.

The network sees a finite number of mel frames to each side. A block is computed with finished frames to its left and
provisional ones to its right, whose samples are cut away, level by level, inside the graph.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import UsageError
from omni_edge.graph import Graph
from omni_edge.manifest import Token2WavSection

Array = NDArray[np.float32]

# Of the nominal receptive field: with this much context on each side blocks equal the whole to 1e-5 (0.5: to 1e-2 at
# single samples), and one DiT block of look-ahead still covers it.
DEFAULT_REACH = 0.6


@dataclass
class BigVganState:
    """The end of the mel that became samples already.

    Attributes:
        context: float32 [frames, mel_dim], what the next block needs to its left; empty at the start.
        seconds: time spent in the graph.
    """

    context: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.context.nbytes

    def reset(self) -> None:
        """Back to the start of an utterance."""
        self.context = np.zeros((0, 0), np.float32)
        self.seconds = 0.0


class BigVgan:
    """The `bigvgan` graph as a room: `step(mel, mel ahead, state) -> samples`.

    Args:
        graph: the graph.
        section: sizes.
        reach: share of the nominal receptive field that is used as context. 1 is exact; at the
            default the taps that are missing lie 120 dB and more below the signal.
        run_frames: mel frames that one run of the graph takes at most, context aside: what bounds its memory
            (about 0.5 MB per frame) where a whole reply comes at once.

    Raises:
        UsageError: `reach` is not in (0, 1].
    """

    def __init__(
        self, graph: Graph, section: Token2WavSection, reach: float = DEFAULT_REACH, run_frames: int = 500
    ) -> None:
        if not 0 < reach <= 1:
            raise UsageError(f"The vocoder's reach is {reach}; it must lie above 0 and at most be 1.")
        self._graph = graph
        self._run_frames = run_frames
        self.context_frames = ceil(reach * section.reach_frames)
        *levels, last = section.reach_samples
        # The last activation and convolution see a few samples only: nothing is to be gained there.
        self._keep = np.array([*(ceil(reach * samples) for samples in levels), last], np.int64)

    def step(self, mel: Array, ahead: Array, state: BigVganState, end: bool = False) -> Array:
        """The samples of `mel`.

        Args:
            mel: float32 [frames, mel_dim], natural logarithm; the frames after those of the last call.
            ahead: float32 [frames, mel_dim], what follows as far as it is known; used as context, not kept.
            state: of this utterance.
            end: `mel` is the last of the utterance, `ahead` is ignored.

        Returns:
            float32 [frames * samples_per_frame] in [-1, 1].
        """
        pieces = [np.zeros(0, np.float32)]
        for start in range(0, len(mel), self._run_frames):
            stop = min(start + self._run_frames, len(mel))
            known = np.concatenate([mel[stop:], ahead[:0] if end else ahead])
            pieces.append(self._run(mel[start:stop], known[: self.context_frames], state))
        return np.concatenate(pieces)

    def _run(self, mel: Array, right: Array, state: BigVganState) -> Array:
        """The samples of `mel` between the state's context and `right`; without `right` the utterance ends here."""
        began = time.perf_counter()
        left = state.context if len(state.context) else mel[:0]
        window = np.concatenate([left, mel, right])
        feeds = {
            "mel": np.ascontiguousarray(window.T)[None],
            "context": np.array([len(left), len(right)], np.int64),
            "keep": self._keep,
        }
        samples: Array = self._graph.run(feeds, ["samples"])[0]
        state.context = window[: len(left) + len(mel)][-self.context_frames :].copy()
        state.seconds += time.perf_counter() - began
        return samples
