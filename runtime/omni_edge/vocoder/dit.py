"""Codec tokens to mel, in chunks: the flow-matching DiT as a stream.

An utterance is divided into blocks, which pass the evaluations of the solver one after the other. Each evaluation keeps
what later blocks need of the blocks before them (`dit_evaluation`), so finished blocks are never computed again. The
order of the schedule decides what a block sees of the blocks behind it (`schedule`). Chunks start at fixed positions of
the utterance and noise is addressed by block, so the mel does not depend on how codec tokens were grouped.
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
from omni_edge.vocoder.solver import SolverSettings, SolverState

Array = NDArray[np.float32]


@dataclass(frozen=True)
class MelBlock:
    """The mel of one chunk, natural logarithm.

    Attributes:
        final: float32 [frames, mel_dim], finished frames.
        look_ahead: float32 [frames, mel_dim], the frames behind them; provisional in a window, finished in a
            wavefront. Empty at the end of the utterance.
        end: True when `final` is the last of the utterance.
    """

    final: Array
    look_ahead: Array
    end: bool


@dataclass(frozen=True)
class TimeTables:
    """The DiT's modulation at each evaluation of a solver.

    Attributes:
        modulation: float32 [evaluations, layers, 6, hidden_size].
        final_modulation: float32 [evaluations, 2, hidden_size].
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
        """The tables of all evaluations of `settings`."""
        times = settings.times()
        key = times.tobytes()
        if key not in self._tables:
            modulation, final = self._load().run({"time": times}, ["modulation", "final_modulation"])
            self._tables[key] = TimeTables(modulation, final)
        return self._tables[key]


@dataclass
class DitState:
    """The state of one utterance.

    Attributes:
        speaker: float32 [rows, hidden_size]: the voice's row and, with guidance, the unconditional one.
        tables: the modulation at all evaluations of `solver`.
        solver: the settings at the start of the utterance.
        schedule: the chunks of the stream.
        noise: the noise of each block.
        pacing: chooses the size of each chunk; None: `schedule.chunk_blocks` does.
        pending_tokens: codec tokens of blocks that no finished chunk has taken in.
        entered_blocks: blocks that have entered the first evaluation for good.
        emitted_blocks: blocks whose mel has been returned.
        finished: finished blocks whose mel has not been returned as final.
        chunk: number of chunks so far.
        time_stride: every how many time points of `solver` one is in use; 1 until evaluations are halved.
        ended: True when no codec token follows.
        evaluations: the state of each evaluation in use.
        seconds: time spent in the DiT, in seconds.
    """

    speaker: Array
    tables: TimeTables
    solver: SolverSettings
    schedule: ChunkSchedule
    noise: NoiseSource
    pacing: Pacing | None = None
    pending_tokens: list[int] = field(init=False)
    entered_blocks: int = field(init=False)
    emitted_blocks: int = field(init=False)
    finished: list[Block] = field(init=False)
    chunk: int = field(init=False)
    time_stride: int = field(init=False)
    ended: bool = field(init=False)
    evaluations: list[EvaluationState] = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values, hidden states and blocks that this utterance keeps."""
        return sum(state.nbytes for state in self.evaluations) + sum(block.nbytes for block in self.finished)

    def reset(self) -> None:
        """Returns to the start of an utterance with the same voice, settings and noise."""
        self.pending_tokens, self.finished = [], []
        self.entered_blocks = self.emitted_blocks = self.chunk = 0
        self.time_stride = 1
        self.ended = False
        self.evaluations = [EvaluationState() for _ in range(self.solver.evaluations)]
        self.seconds = 0.0
        if self.pacing:
            self.pacing.reset()

    @property
    def active_solver(self) -> SolverSettings:
        """The settings with the evaluations that are in use."""
        coarser = None if self.time_stride == 1 else self.solver.coarser(self.time_stride)
        return coarser or self.solver

    def halve_evaluations(self) -> None:
        """Keeps every second evaluation, with its time point and state, where the pacing allows that."""
        halved = self.solver.coarser(2 * self.time_stride)
        minimum = self.schedule.pacing.min_evaluations if self.schedule.pacing else None
        if self.pacing and halved and minimum is not None and halved.evaluations >= minimum:
            self.time_stride *= 2
            self.evaluations = self.evaluations[::2]
            self.pacing.evaluations_halved()


class Dit:
    """The `dit` graph: `step(codec tokens, state) -> MelBlock | None`. Its states belong to the caller.

    Args:
        graph: the `dit` graph.
        section: sizes.
        mel_look_ahead: finished blocks that a wavefront returns behind the final ones, for BigVGAN's look-ahead.
    """

    def __init__(self, graph: Graph, section: Token2WavSection, mel_look_ahead: int) -> None:
        self._graph = graph
        self._section = section
        self._mel_look_ahead = mel_look_ahead
        self._codecs_per_block = section.block_frames // section.frames_per_codec

    def look_ahead(self, schedule: ChunkSchedule, solver: SolverSettings) -> int:
        """Blocks behind the finished ones whose codec tokens a chunk needs."""
        if schedule.order == "window":
            return schedule.look_ahead_blocks
        return solver.evaluations * self._section.look_ahead_layers + self._mel_look_ahead

    def step(self, codec: Sequence[int] | NDArray[np.int64], state: DitState, end: bool = False) -> MelBlock | None:
        """Takes codec tokens and computes at most one chunk.

        Args:
            codec: the next codec tokens, without control tokens; may be empty.
            state: the utterance; it is updated.
            end: True when no codec token follows.

        Returns:
            The mel of a chunk, or None when more codec tokens are needed. Call again without tokens until then.

        Raises:
            UsageError: a codec token without an embedding, or tokens after the end.
        """
        self._push(codec, state)
        state.ended = state.ended or end
        if state.pacing and state.pacing.too_slow:
            state.halve_evaluations()
        blocks = state.pacing.chunk_blocks if state.pacing else state.schedule.finished_blocks(state.chunk)
        needed = state.emitted_blocks + blocks + self.look_ahead(state.schedule, state.solver)
        codecs = (needed - state.entered_blocks) * self._codecs_per_block
        if blocks and len(state.pending_tokens) >= codecs:
            return self._run_chunk(state, codecs, blocks)
        if state.ended and (state.pending_tokens or state.emitted_blocks < state.entered_blocks):
            return self._run_chunk(state, len(state.pending_tokens), None)
        return None

    def _push(self, codec: Sequence[int] | NDArray[np.int64], state: DitState) -> None:
        tokens = [int(token) for token in codec]
        if tokens and state.ended:
            raise UsageError("This utterance has ended, so no codec token can follow. Start with a fresh state.")
        limit = self._section.codec_limit
        for token in tokens:
            if not 0 <= token < limit:
                raise UsageError(
                    f"Codec token {token} has no embedding: the vocoder has embeddings for 0 to {limit - 1}. "
                    "Leave control tokens out."
                )
        state.pending_tokens += tokens

    def _run_chunk(self, state: DitState, codecs: int, count: int | None) -> MelBlock:
        """Takes in `codecs` pending tokens and finishes `count` blocks. None: the end, so all blocks."""
        began = time.perf_counter()
        window = state.schedule.order == "window"
        blocks = self._blocks(state, codecs)
        provisional = len(blocks) - count if window and count is not None else 0
        entered = len(blocks) - provisional
        del state.pending_tokens[: entered * self._codecs_per_block]
        state.entered_blocks += entered
        hold = not window and count is not None
        for index, evaluation in enumerate(state.evaluations):
            blocks = self._evaluator(state, index).step(blocks, evaluation, provisional=provisional, hold=hold)
        blocks = [*state.finished, *blocks]
        final, look_ahead = blocks[:count], blocks[len(blocks) if count is None else count :]
        state.finished = [] if window else look_ahead
        state.emitted_blocks += len(final)
        state.chunk += 1
        state.seconds += time.perf_counter() - began
        return MelBlock(self._mel(final), self._mel(look_ahead), count is None)

    def _blocks(self, state: DitState, codecs: int) -> list[Block]:
        """Blocks of noise for the first `codecs` pending tokens."""
        size = self._codecs_per_block
        blocks = []
        for index in range(-(-codecs // size)):
            tokens = state.pending_tokens[index * size : min((index + 1) * size, codecs)]
            codec = np.zeros(size, np.int64)
            codec[: len(tokens)] = tokens
            noise = state.noise(state.entered_blocks + index)
            blocks.append(Block(codec, len(tokens) * self._section.frames_per_codec, SolverState(noise)))
        return blocks

    def _evaluator(self, state: DitState, index: int) -> Evaluator:
        """The evaluation number `index` of those in use."""
        return Evaluator(
            self._graph,
            self._section,
            state.speaker,
            state.active_solver,
            state.tables.modulation[index * state.time_stride],
            state.tables.final_modulation[index * state.time_stride],
        )

    def _mel(self, blocks: list[Block]) -> Array:
        """The mel of finished blocks, float32 [frames, mel_dim]."""
        empty = np.zeros((0, self._section.mel_dim), np.float32)
        return np.concatenate([empty, *(block.solver.x[: block.frames] for block in blocks)])
