"""Codec tokens to mel, in chunks: the flow-matching DiT as a stream.

An utterance is cut into blocks, which pass the evaluations of the solver one after the other. Finished blocks are never
computed again: every evaluation keeps what later blocks see of them (`evaluation`). How much of what follows a block
sees is a matter of the order (`chunks`). Chunks lie at fixed positions of the utterance and noise is addressed by
position, so the mel does not depend on how codec tokens were pushed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import Token2WavSection
from omni_edge.errors import UsageError
from omni_edge.vocoder.dit_evaluation import Block, EvaluationState, Evaluator
from omni_edge.vocoder.noise import NoiseSource
from omni_edge.vocoder.pacing import Pacing
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings, trajectory

Array = NDArray[np.float32]


@dataclass(frozen=True)
class MelBlock:
    """What a chunk gives: natural-log mel, float32 [frames, mel_dim].

    Attributes:
        final: frames that are finished.
        ahead: the frames right after them, as far as they are known; a window's are provisional. Empty at the end of
            the utterance.
        end: `final` is the last of the utterance.
    """

    final: Array
    ahead: Array
    end: bool


@dataclass(frozen=True)
class TimeTables:
    """The DiT's modulation at each evaluation of a solver.

    Attributes:
        modulation: float32 [evaluations, layers, 6, hidden].
        final_modulation: float32 [evaluations, 2, hidden].
    """

    modulation: Array
    final_modulation: Array


class TimeTableCache:
    """Computes `TimeTables` once per solver setting; the graph is in memory only while it computes.

    Args:
        load: loads the `dit_time` graph.
    """

    def __init__(self, load: Callable[[], Graph]) -> None:
        self._load = load
        self._tables: dict[bytes, TimeTables] = {}

    def for_solver(self, settings: SolverSettings) -> TimeTables:
        """The tables for `settings`."""
        times = settings.times()
        key = times.tobytes()
        if key not in self._tables:
            modulation, final = self._load().run({"time": times}, ["modulation", "final_modulation"])
            self._tables[key] = TimeTables(modulation, final)
        return self._tables[key]


@dataclass
class DitState:
    """One utterance in the making.

    Attributes:
        speaker: float32 [rows, hidden]: the voice's constant and, with guidance, the unconditional one.
        tables, solver, chunks, noise: how the utterance is sampled.
        pace: chooses the chunks; None: `chunks` says.
        pending: codec tokens that have not entered the DiT for good.
        entered: blocks that have.
        given: blocks that were given out.
        ready: finished blocks that were not.
        chunk: chunks so far.
        stride: every how manyth time point of `solver` is in use; 1, as long as the pace is kept.
        ended: no codec token will follow.
        evaluations: what each evaluation of the solver keeps.
        seconds: time spent in the DiT.
    """

    speaker: Array
    tables: TimeTables
    solver: SolverSettings
    schedule: ChunkSchedule
    noise: NoiseSource
    pacing: Pacing | None = None
    pending: list[int] = field(init=False)
    entered: int = field(init=False)
    given: int = field(init=False)
    ready: list[Block] = field(init=False)
    chunk: int = field(init=False)
    stride: int = field(init=False)
    ended: bool = field(init=False)
    evaluations: list[EvaluationState] = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and unfinished mel that one utterance holds."""
        return sum(state.nbytes for state in self.evaluations) + sum(block.mel.nbytes for block in self.ready)

    def reset(self) -> None:
        """Back to the start of an utterance: same voice, settings and noise."""
        self.pending, self.ready = [], []
        self.entered = self.given = self.chunk = 0
        self.stride = 1
        self.ended = False
        self.evaluations = [EvaluationState() for _ in range(self.solver.evaluations)]
        self.seconds = 0.0
        if self.pacing:
            self.pacing.reset()

    @property
    def active_solver(self) -> SolverSettings:
        """The solver as it is in use."""
        return self.solver.coarser(self.stride) or self.solver

    def halve_evaluations(self) -> None:
        """Uses half of the evaluations from here on, where the pace allows it.

        Every second one stays, at its time point, with what it has kept of the blocks before.
        """
        fewer = self.solver.coarser(2 * self.stride)
        least = self.schedule.pacing.min_evaluations if self.schedule.pacing else None
        if self.pacing and fewer and least is not None and fewer.evaluations >= least:
            self.stride *= 2
            self.evaluations = self.evaluations[::2]
            self.pacing.evaluations_halved()


class Dit:
    """The `dit` graph as a room: `step(codec tokens, state) -> MelBlock | None`.

    Args:
        graph: the graph.
        section: sizes.
        ahead_blocks: exact blocks behind the finished ones that whoever takes the mel asks for in a wavefront.
    """

    def __init__(self, graph: Graph, section: Token2WavSection, ahead_blocks: int) -> None:
        self._graph = graph
        self._section = section
        self._ahead_blocks = ahead_blocks
        self._codecs_per_block = section.block_frames // section.frames_per_codec

    def look_ahead(self, schedule: ChunkSchedule, solver: SolverSettings) -> int:
        """Blocks behind the finished ones that must be known."""
        if schedule.order == "window":
            return schedule.look_ahead_blocks
        return solver.evaluations * self._section.look_ahead_layers + self._ahead_blocks

    def step(self, codec: Sequence[int] | NDArray[np.int64], state: DitState, end: bool = False) -> MelBlock | None:
        """Takes codec tokens and runs at most one chunk; call again with no tokens until None comes back.

        Raises:
            UsageError: a codec token without an embedding, or tokens after the end.
        """
        self._push(codec, state)
        state.ended = state.ended or end
        if state.pacing and state.pacing.too_slow:
            state.halve_evaluations()
        give = state.pacing.chunk_blocks if state.pacing else state.schedule.finished_blocks(state.chunk)
        known = state.given + give + self.look_ahead(state.schedule, state.solver)
        entering = (known - state.entered) * self._codecs_per_block
        if give and len(state.pending) >= entering:
            return self._tick(state, entering, give)
        if state.ended and (state.pending or state.given < state.entered):
            return self._tick(state, len(state.pending), None)
        return None

    def _push(self, codec: Sequence[int] | NDArray[np.int64], state: DitState) -> None:
        tokens = [int(token) for token in codec]
        if tokens and state.ended:
            raise UsageError("This utterance has ended: codec tokens cannot follow. Start with a fresh state.")
        limit = self._section.codec_limit
        for token in tokens:
            if not 0 <= token < limit:
                raise UsageError(
                    f"Codec token {token} has no embedding: the vocoder knows 0 to {limit - 1}. "
                    "Leave control tokens out of what is pushed."
                )
        state.pending += tokens

    def _tick(self, state: DitState, codecs: int, give: int | None) -> MelBlock:
        """Lets `codecs` tokens enter and finishes `give` blocks (None: all there are; nothing follows)."""
        began = time.perf_counter()
        window = state.schedule.order == "window"
        blocks = self._blocks(state, codecs)
        provisional = len(blocks) - give if window and give is not None else 0
        entered = len(blocks) - provisional
        del state.pending[: entered * self._codecs_per_block]
        state.entered += entered
        for index, evaluation in enumerate(state.evaluations):
            evaluator = self._evaluator(state, index)
            blocks = evaluator.step(blocks, evaluation, provisional=provisional, hold=not window and give is not None)
        blocks = [*state.ready, *blocks]
        final, ahead = blocks[:give], blocks[len(blocks) if give is None else give :]
        state.ready = [] if window else ahead
        state.given += len(final)
        state.chunk += 1
        state.seconds += time.perf_counter() - began
        return MelBlock(self._mel(final), self._mel(ahead), give is None)

    def _blocks(self, state: DitState, codecs: int) -> list[Block]:
        """The first `codecs` pending tokens as blocks of noise."""
        size = self._codecs_per_block
        blocks = []
        for index in range(-(-codecs // size)):
            tokens = state.pending[index * size : min((index + 1) * size, codecs)]
            codec = np.zeros(size, np.int64)
            codec[: len(tokens)] = tokens
            path = trajectory(state.noise(state.entered + index), state.active_solver)
            blocks.append(Block(codec, len(tokens) * self._section.frames_per_codec, path, next(path)))
        return blocks

    def _evaluator(self, state: DitState, index: int) -> Evaluator:
        """Evaluation number `index` of the solver."""
        return Evaluator(
            self._graph,
            self._section,
            state.speaker,
            state.solver.guidance,
            state.tables.modulation[index * state.stride],
            state.tables.final_modulation[index * state.stride],
        )

    def _mel(self, blocks: list[Block]) -> Array:
        nothing = np.zeros((0, self._section.mel_dim), np.float32)
        return np.concatenate([nothing, *(block.mel[: block.frames] for block in blocks)])
