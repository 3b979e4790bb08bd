"""Mel to samples, in blocks: BigVGAN as a stream.

The network sees a finite number of mel frames to each side. To the left every filter keeps what it needs from block to
block; to the right a block is given provisional frames, whose samples are cut away, level by level, inside the graph.
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

# Of the nominal receptive field: with this much to look ahead at blocks equal the whole to 1e-5 (0.5: to 1e-2 at
# single samples), and one DiT block of look-ahead still covers it.
DEFAULT_REACH = 0.6
_STATE = "state."


@dataclass
class BigVganState:
    """One utterance in the making.

    Attributes:
        filters: input of the graph -> what the filters of that signal remember; empty at the start.
        seconds: time spent in the graph.
    """

    filters: dict[str, Array] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.filters.values())

    def reset(self) -> None:
        """Back to the start of an utterance."""
        self.filters = {}
        self.seconds = 0.0


class BigVgan:
    """The `bigvgan` graph as a room: `step(mel, mel ahead, state) -> samples`.

    Args:
        graph: the graph.
        section: sizes.
        reach: share of the nominal receptive field that is looked ahead at. 1 is exact; at the default the taps that
            are missing lie 120 dB and more below the signal.
        run_frames: mel frames that one run of the graph finishes at most: what bounds its memory (about 0.5 MB per
            frame) where a whole reply comes at once.

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
        self.ahead_frames = ceil(reach * section.reach_frames)
        *levels, last = section.reach_samples
        # The last activation and convolution see a few samples only: nothing is to be gained there.
        self._keep = np.array([*(ceil(reach * samples) for samples in levels), last], np.int64)

    def step(self, mel: Array, ahead: Array, state: BigVganState, end: bool = False) -> Array:
        """The samples of `mel`.

        Args:
            mel: float32 [frames, mel_dim], natural logarithm; the frames after those of the last call.
            ahead: float32 [frames, mel_dim], what follows as far as it is known; not kept.
            state: of this utterance.
            end: `mel` is the last of the utterance, `ahead` is ignored.

        Returns:
            float32 [frames * samples_per_frame] in [-1, 1].
        """
        pieces = [np.zeros(0, np.float32)]
        for start in range(0, len(mel), self._run_frames):
            stop = min(start + self._run_frames, len(mel))
            known = np.concatenate([mel[stop:], ahead[:0] if end else ahead])
            pieces.append(self._run(mel[start:stop], known[: self.ahead_frames], state))
        return np.concatenate(pieces)

    def _run(self, mel: Array, ahead: Array, state: BigVganState) -> Array:
        """The samples of `mel`; without `ahead` the utterance ends here."""
        began = time.perf_counter()
        feeds = whole_utterance(self._graph, np.concatenate([mel, ahead]))
        feeds |= {"ahead": np.array([len(ahead)], np.int64), "keep": self._keep}
        if state.filters:
            feeds |= {"begin": np.array([False]), **state.filters}
        names = [name for name in feeds if name.startswith(_STATE)]
        samples, *filters = self._graph.run(feeds, ["samples", *(f"next_{name}" for name in names)])
        state.filters = dict(zip(names, filters, strict=True))
        state.seconds += time.perf_counter() - began
        return samples


def whole_utterance(graph: Graph, mel: Array) -> dict[str, NDArray[Any]]:
    """What the `bigvgan` graph is fed where `mel`, float32 [frames, mel_dim], is all there is."""
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
