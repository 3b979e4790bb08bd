"""Mel to samples: BigVGAN as a stream.

The receptive field of the network is finite. On the left, each filter keeps the samples that it needs of the frames
before. On the right, the graph takes look-ahead frames and removes their samples level by level.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import Token2WavSection
from omni_edge.errors import UsageError

Array = NDArray[np.float32]

# The largest share that one DiT block of look-ahead covers. Samples then equal those of the whole mel to 1e-5; at 0.5
# single samples differ by 1e-2.
DEFAULT_REACH = 0.6
_STATE = "state."


@dataclass
class BigVganState:
    """The state of one utterance.

    Attributes:
        filters: name of a state input of the graph -> float32 samples that its filters keep; empty at the start.
        seconds: time spent in the graph, in seconds.
    """

    filters: dict[str, Array] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.filters.values())

    def reset(self) -> None:
        """Returns to the start of an utterance."""
        self.filters = {}
        self.seconds = 0.0


class BigVgan:
    """The `bigvgan` graph: `step(mel, look-ahead mel, state) -> samples`. Its states belong to the caller.

    Args:
        graph: the `bigvgan` graph.
        section: sizes.
        reach: share of the nominal receptive field that the network looks ahead. 1 is exact; the taps that the default
            leaves out are 120 dB and more below the signal.
        run_frames: most mel frames of one run of the graph. It bounds the memory, about 0.5 MB per frame, when a whole
            reply comes at once.

    Attributes:
        look_ahead_frames: mel frames that the network looks ahead.

    Raises:
        UsageError: `reach` is not in (0, 1].
    """

    def __init__(
        self, graph: Graph, section: Token2WavSection, reach: float = DEFAULT_REACH, run_frames: int = 500
    ) -> None:
        if not 0 < reach <= 1:
            raise UsageError(f"The vocoder's reach is {reach}; it must be above 0 and at most 1.")
        self._graph = graph
        self._run_frames = run_frames
        self.look_ahead_frames = ceil(reach * section.reach_frames)
        *levels, last = section.reach_samples
        # The last level sees few samples, so a smaller share saves nothing there.
        self._keep = np.array([*(ceil(reach * samples) for samples in levels), last], np.int64)

    def step(self, mel: Array, look_ahead: Array, state: BigVganState, end: bool = False) -> Array:
        """Computes the samples of `mel`.

        Args:
            mel: float32 [frames, mel_dim], natural logarithm; the frames after those of the last call.
            look_ahead: float32 [frames, mel_dim], the frames behind them; may be provisional, and is not kept.
            state: the utterance; it is updated.
            end: True when `mel` is the last of the utterance; `look_ahead` is then unused.

        Returns:
            float32 [frames * samples_per_frame] in [-1, 1].
        """
        pieces = [np.zeros(0, np.float32)]
        for start in range(0, len(mel), self._run_frames):
            stop = min(start + self._run_frames, len(mel))
            behind = np.concatenate([mel[stop:], look_ahead[:0] if end else look_ahead])
            pieces.append(self._run(mel[start:stop], behind[: self.look_ahead_frames], state))
        return np.concatenate(pieces)

    def _run(self, mel: Array, look_ahead: Array, state: BigVganState) -> Array:
        """The samples of `mel`, float32 [n]. Without `look_ahead` the utterance ends here."""
        began = time.perf_counter()
        feeds = whole_utterance(self._graph, np.concatenate([mel, look_ahead]))
        feeds |= {"ahead": np.array([len(look_ahead)], np.int64), "keep": self._keep}
        if state.filters:
            feeds |= {"begin": np.array([False]), **state.filters}
        names = [name for name in feeds if name.startswith(_STATE)]
        samples, *filters = self._graph.run(feeds, ["samples", *(f"next_{name}" for name in names)])
        state.filters = dict(zip(names, filters, strict=True))
        state.seconds += time.perf_counter() - began
        return samples


def whole_utterance(graph: Graph, mel: Array) -> dict[str, NDArray[Any]]:
    """The inputs of the `bigvgan` graph for a whole mel, float32 [frames, mel_dim]."""
    feeds: dict[str, NDArray[Any]] = {
        "mel": np.ascontiguousarray(mel.T)[None],
        "ahead": np.zeros(1, np.int64),
        "keep": np.zeros([size or 0 for size in graph.inputs["keep"].shape], np.int64),
        "begin": np.array([True]),
    }
    for name, spec in graph.inputs.items():
        if name.startswith(_STATE):
            feeds[name] = np.zeros([size or 0 for size in spec.shape], np.float32)
    return feeds
