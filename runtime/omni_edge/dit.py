"""Codec tokens to mel, in ticks: the flow-matching DiT as a stream.

An utterance is cut into blocks. Tick i finishes some blocks and looks at some more behind them, whose mel is
provisional and computed again, from the same noise, in the next tick. Ticks lie at fixed positions of the utterance, so
the mel does not depend on how codec tokens were pushed. Finished blocks are not computed again: for every evaluation of
the solver the keys and values that the look-backward layers had for the last of them are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import UsageError
from omni_edge.graph import Graph
from omni_edge.manifest import Token2WavSection
from omni_edge.noise import NoiseSource
from omni_edge.solver import SolverSettings, solve

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TickSettings:
    """Where the ticks of a stream lie, in blocks.

    Attributes:
        look_ahead_blocks: blocks behind the finished ones that a tick sees; more: closer to the whole utterance, later.
        growth: blocks that the first, second, ... tick finishes; the last number holds for all later ones. Small first
            ticks let sound begin early, large ones waste less on the look-ahead. Empty: one tick, at the end of the
            reply, equal to decoding the whole utterance.

    Raises:
        UsageError: a number below 1.
    """

    look_ahead_blocks: int = 1
    growth: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        if self.look_ahead_blocks < 1 or any(blocks < 1 for blocks in self.growth):
            raise UsageError(
                f"A stream with {self.look_ahead_blocks} blocks of look-ahead and ticks of {list(self.growth)} blocks "
                "cannot run: each of these numbers must be at least 1."
            )

    def finished_blocks(self, tick: int) -> int:
        """Blocks that tick number `tick` finishes; 0: it waits for the end."""
        return self.growth[min(tick, len(self.growth) - 1)] if self.growth else 0


@dataclass(frozen=True)
class MelBlock:
    """What a tick gives: natural-log mel, float32 [frames, mel_dim].

    Attributes:
        final: frames that are finished.
        ahead: provisional frames right after them; empty at the end of the utterance.
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

    def of(self, settings: SolverSettings) -> TimeTables:
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
        tables, solver, ticks, noise: how the utterance is sampled.
        pending: codec tokens from the first unfinished block on.
        block: index of that block.
        tick: ticks so far.
        ended: no codec token will follow.
        left: for each evaluation, keys and values of the last finished block; empty before the first tick.
        seconds: time spent in the graph.
    """

    speaker: Array
    tables: TimeTables
    solver: SolverSettings
    ticks: TickSettings
    noise: NoiseSource
    pending: list[int] = field(default_factory=list)
    block: int = 0
    tick: int = 0
    ended: bool = False
    left: list[tuple[Array, Array]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and noise that one utterance holds."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.left)

    def reset(self) -> None:
        """Back to the start of an utterance: same voice, settings and noise."""
        self.pending.clear()
        self.left.clear()
        self.block = self.tick = 0
        self.ended = False
        self.seconds = 0.0


class Dit:
    """The `dit` graph as a room: `step(codec tokens, state) -> MelBlock | None`."""

    def __init__(self, graph: Graph, section: Token2WavSection) -> None:
        self._graph = graph
        self._section = section
        self._codecs_per_block = section.block_frames // section.frames_per_codec

    def step(self, codec: Sequence[int] | NDArray[np.int64], state: DitState, end: bool = False) -> MelBlock | None:
        """Takes codec tokens and runs at most one tick; call again with no tokens until None comes back.

        Raises:
            UsageError: a codec token without an embedding, or tokens after the end.
        """
        self._push(codec, state)
        state.ended = state.ended or end
        finished = state.ticks.finished_blocks(state.tick)
        wanted = (finished + state.ticks.look_ahead_blocks) * self._codecs_per_block
        if finished and len(state.pending) >= wanted:
            return self._tick(state, wanted, finished)
        if state.ended and state.pending:
            blocks = -(-len(state.pending) // self._codecs_per_block)
            return self._tick(state, len(state.pending), blocks)
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

    def _tick(self, state: DitState, codecs: int, finished: int) -> MelBlock:
        """Computes a window of `codecs` tokens and finishes its first `finished` blocks."""
        section = self._section
        began = time.perf_counter()
        blocks = -(-codecs // self._codecs_per_block)
        frames = codecs * section.frames_per_codec
        rows = state.solver.rows
        codec = np.zeros((rows, blocks * self._codecs_per_block), np.int64)
        codec[0, :codecs] = state.pending[:codecs]
        start = np.concatenate([state.noise(state.block + index) for index in range(blocks)])
        kept: list[tuple[Array, Array]] = []
        feeds: dict[str, NDArray[Any]] = {
            "codec": codec,
            "speaker": state.speaker,
            "left_valid": np.array([bool(state.left)]),
            "frames": np.array([frames], np.int64),
            "keep": np.array([finished - 1], np.int64),
        }
        shape = (section.cached_layers, rows, section.block_frames, section.attention_size)
        nothing = (np.zeros(shape, np.float32), np.zeros(shape, np.float32))

        def velocity(index: int, mel: Array) -> Array:
            keys, values = state.left[index] if state.left else nothing
            v, keys, values = self._graph.run(
                {
                    **feeds,
                    "mel": np.broadcast_to(mel, (rows, *mel.shape)),
                    "modulation": state.tables.modulation[index],
                    "final_modulation": state.tables.final_modulation[index],
                    "left_keys": keys,
                    "left_values": values,
                },
                ["velocity", "keys", "values"],
            )
            kept.append((keys, values))
            guided: Array = v[0] if rows == 1 else v[0] + (v[0] - v[1]) * np.float32(state.solver.guidance)
            return guided

        mel = solve(velocity, start, state.solver)[:frames]
        boundary = finished * section.block_frames
        del state.pending[: finished * self._codecs_per_block]
        state.block += finished
        state.tick += 1
        state.left = kept
        state.seconds += time.perf_counter() - began
        return MelBlock(mel[:boundary], mel[boundary:], state.ended and not state.pending)
