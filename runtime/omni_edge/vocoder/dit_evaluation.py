"""One evaluation of the DiT's velocity as a room of its own: blocks in, the same blocks one evaluation further out.

A solver with N evaluations is N of these in a row. Each keeps what its evaluation needs of the blocks that have passed:
the keys and values of the last one, and, where more blocks will follow, the last ones themselves, held back at the
look-ahead layers until the next block has come as far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import Token2WavSection
from omni_edge.vocoder.solver import Trajectory

Array = NDArray[np.float32]


@dataclass
class Block:
    """A block on its way from noise to mel.

    Attributes:
        codec: int64 [codec tokens per block], zeros where the utterance has ended.
        frames: mel frames that exist.
        path: the solver's trajectory.
        mel: float32 [block_frames, mel_dim], the state at which the velocity is wanted; at last the mel itself.
    """

    codec: NDArray[np.int64]
    frames: int
    path: Trajectory
    mel: Array


@dataclass
class EvaluationState:
    """What one evaluation keeps between runs of the graph.

    Attributes:
        waiting: blocks that have arrived and not entered: too few to let one go on.
        inside: blocks that have entered and not left, held back at the look-ahead layers.
        held: float32 [look-ahead layers, rows, 1, block, hidden], what has become of them; None: there are none.
        left: keys and values of the last block that has passed; None at the start of the utterance.
    """

    waiting: list[Block] = field(default_factory=list)
    inside: list[Block] = field(default_factory=list)
    held: Array | None = None
    left: tuple[Array, Array] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        arrays: list[Array] = [block.mel for block in self.waiting + self.inside]
        arrays += self.left or ()
        if self.held is not None:
            arrays.append(self.held)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True)
class Evaluator:
    """Runs the `dit` graph at one time point, for one voice.

    Attributes:
        graph, section: the graph and its sizes.
        speaker: float32 [rows, hidden]: the voice's constant and, with guidance, the unconditional one.
        guidance: weight of what guidance adds.
        modulation, final_modulation: of the time point, float32 [layers, 6, hidden] and [2, hidden].
    """

    graph: Graph
    section: Token2WavSection
    speaker: Array
    guidance: float
    modulation: Array
    final_modulation: Array

    def step(self, blocks: list[Block], state: EvaluationState, *, provisional: int, hold: bool) -> list[Block]:
        """Takes blocks; returns those that have got their velocity and moved on.

        Args:
            blocks: the blocks that come next, in order.
            state: of this evaluation.
            provisional: how many of the last blocks will come again: what later ones look back to is before them.
            hold: more blocks will follow: the last ones wait inside for them.
        """
        section = self.section
        moving = [*state.waiting, *blocks]
        going = len(state.inside) + len(moving) - hold * section.look_ahead_layers
        if going <= 0:
            state.waiting = moving
            return []
        velocity = self._run(moving, state, provisional=provisional, hold=hold)
        passing = [*state.inside, *moving]
        for index, block in enumerate(passing[:going]):
            start = index * section.block_frames
            block.mel = block.path.send(velocity[start : start + section.block_frames])
        state.waiting, state.inside = [], passing[going:]
        return passing[:going]

    def _run(self, moving: list[Block], state: EvaluationState, *, provisional: int, hold: bool) -> Array:
        """Velocity of the blocks that go on, float32 [frames, mel_dim]."""
        section, rows = self.section, len(self.speaker)
        mel = [block.mel for block in moving]
        codec = [block.codec for block in moving]
        if not moving:
            # Those inside learn that nothing follows them: from a block of which no frame exists.
            mel = [np.zeros((section.block_frames, section.mel_dim), np.float32)]
            codec = [np.zeros(section.block_frames // section.frames_per_codec, np.int64)]
        row = np.concatenate(codec)
        keys, values = state.left or self._nothing_left()
        feeds: dict[str, NDArray[Any]] = {
            "mel": np.stack([np.concatenate(mel)] * rows),
            "codec": np.stack([row, np.zeros_like(row)][:rows]),
            "speaker": self.speaker,
            "modulation": self.modulation,
            "final_modulation": self.final_modulation,
            "left_keys": keys,
            "left_values": values,
            "left_valid": np.array([state.left is not None]),
            "held": self._nothing_held() if state.held is None else state.held,
            "frames": np.array([sum(block.frames for block in moving)], np.int64),
            "hold": np.array([hold], np.int64),
            "keep": np.array([-1 - provisional], np.int64),
        }
        v, keys, values, held = self.graph.run(feeds, ["velocity", "keys", "values", "next_held"])
        state.left = (keys, values)
        state.held = held if hold else None
        guided: Array = v[0] if rows == 1 else v[0] + (v[0] - v[1]) * np.float32(self.guidance)
        return guided

    def _nothing_left(self) -> tuple[Array, Array]:
        section = self.section
        shape = (section.look_backward_layers, len(self.speaker), section.block_frames, section.attention_size)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def _nothing_held(self) -> Array:
        section = self.section
        shape = (section.look_ahead_layers, len(self.speaker), 0, section.block_frames, section.hidden_size)
        return np.zeros(shape, np.float32)
