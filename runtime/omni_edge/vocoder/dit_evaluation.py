"""One evaluation of the DiT's velocity, as a stream of blocks.

A solver with N evaluations is N of these in a row: each takes the blocks that the evaluation before it has advanced. An
evaluation keeps the keys and values of the last block that it has advanced, for the look-backward layers. In a
wavefront it also holds the last blocks at the look-ahead layers until the next block arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import Token2WavSection
from omni_edge.vocoder.solver import SolverSettings, SolverState, advance, evaluation_point

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """One block of an utterance between noise and mel.

    Attributes:
        codec: int64 [codec tokens per block], padded with zeros after the end of the utterance.
        frames: mel frames before the end of the utterance, at most `block_frames`.
        solver: the solver's state; `x` is the mel, float32 [block_frames, mel_dim], after the last evaluation.
    """

    codec: NDArray[np.int64]
    frames: int
    solver: SolverState

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.codec.nbytes + self.solver.nbytes


@dataclass
class EvaluationState:
    """The state of one evaluation between runs of the graph.

    Attributes:
        waiting: blocks that the graph has not taken yet, because too few have arrived to advance one.
        held_blocks: blocks that the graph has taken and holds at the look-ahead layers.
        held: hidden states of `held_blocks`, float32 [look_ahead_layers, rows, 1, block_frames, hidden_size]; None
            without such blocks.
        left_context: keys and values of the last advanced block, float32 [look_backward_layers, rows, block_frames,
            attention_size] each; None at the start of the utterance.
    """

    waiting: list[Block] = field(default_factory=list)
    held_blocks: list[Block] = field(default_factory=list)
    held: Array | None = None
    left_context: tuple[Array, Array] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = list(self.left_context or ())
        if self.held is not None:
            arrays.append(self.held)
        blocks = self.waiting + self.held_blocks
        return sum(array.nbytes for array in arrays) + sum(block.nbytes for block in blocks)


@dataclass(frozen=True)
class Evaluator:
    """Runs the `dit` graph at one time point, for one voice.

    Attributes:
        graph: the `dit` graph.
        section: its sizes.
        speaker: float32 [rows, hidden_size]: the voice's row and, with guidance, the unconditional one.
        solver: the settings that all blocks are advanced with.
        modulation: the modulation at this time point, float32 [layers, 6, hidden_size].
        final_modulation: that of the last layer, float32 [2, hidden_size].
    """

    graph: Graph
    section: Token2WavSection
    speaker: Array
    solver: SolverSettings
    modulation: Array
    final_modulation: Array

    def step(self, blocks: list[Block], state: EvaluationState, *, provisional: int, hold: bool) -> list[Block]:
        """Takes the next blocks; returns the blocks that this evaluation has advanced, in order.

        Args:
            blocks: the next blocks of the utterance, in order; may be empty.
            state: the state of this evaluation; it is updated.
            provisional: how many of the last blocks will be computed again. The left context ends before them.
            hold: True when more blocks follow, for which the look-ahead layers hold the last ones.
        """
        section = self.section
        entering = [*state.waiting, *blocks]
        count = len(state.held_blocks) + len(entering) - hold * section.look_ahead_layers
        if count <= 0:
            state.waiting = entering
            return []
        velocity = self._run(entering, state, provisional=provisional, hold=hold)
        inside = [*state.held_blocks, *entering]
        state.waiting, state.held_blocks = [], inside[count:]
        velocities = velocity.reshape(-1, section.block_frames, section.mel_dim)
        return [
            Block(block.codec, block.frames, advance(block.solver, velocities[index], self.solver))
            for index, block in enumerate(inside[:count])
        ]

    def _run(self, entering: list[Block], state: EvaluationState, *, provisional: int, hold: bool) -> Array:
        """The velocity of the advanced blocks, float32 [frames, mel_dim], before those of no use."""
        section, rows = self.section, len(self.speaker)
        mel = [evaluation_point(block.solver, self.solver) for block in entering]
        codec = [block.codec for block in entering]
        if not entering:
            # The graph releases held blocks when a block enters; at the end this one, which has no frames.
            mel = [np.zeros((section.block_frames, section.mel_dim), np.float32)]
            codec = [np.zeros(section.block_frames // section.frames_per_codec, np.int64)]
        row = np.concatenate(codec)
        keys, values = state.left_context or self._no_left_context()
        feeds: dict[str, NDArray[Any]] = {
            "mel": np.stack([np.concatenate(mel)] * rows),
            "codec": np.stack([row, np.zeros_like(row)][:rows]),
            "speaker": self.speaker,
            "modulation": self.modulation,
            "final_modulation": self.final_modulation,
            "left_keys": keys,
            "left_values": values,
            "left_valid": np.array([state.left_context is not None]),
            "held": self._nothing_held() if state.held is None else state.held,
            "frames": np.array([sum(block.frames for block in entering)], np.int64),
            "hold": np.array([hold], np.int64),
            "keep": np.array([-1 - provisional], np.int64),
        }
        v, keys, values, held = self.graph.run(feeds, ["velocity", "keys", "values", "next_held"])
        state.left_context = (keys, values)
        state.held = held if hold else None
        guided: Array = v[0] if rows == 1 else v[0] + (v[0] - v[1]) * np.float32(self.solver.guidance)
        return guided

    def _no_left_context(self) -> tuple[Array, Array]:
        section = self.section
        shape = (section.look_backward_layers, len(self.speaker), section.block_frames, section.attention_size)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def _nothing_held(self) -> Array:
        section = self.section
        shape = (section.look_ahead_layers, len(self.speaker), 0, section.block_frames, section.hidden_size)
        return np.zeros(shape, np.float32)
