"""The order and the number of blocks computed at a time: wavefronts, and chunks sized by the clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.errors import UsageError
from omni_edge.vocoder.bigvgan import DEFAULT_REACH
from omni_edge.vocoder.pacing import Pacing, PacingSettings
from omni_edge.vocoder.schedule import ChunkSchedule
from omni_edge.vocoder.solver import SolverSettings
from omni_edge.vocoder.vocoder import Vocoder, VocoderState
from support.vocoders import FAST, WAVEFRONT, WHOLE, Parts, Samples, codec_tokens, decode, mel_of, snr


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ({"look_ahead_blocks": 0}, "at least 1"),
        ({"chunk_blocks": (1, 0)}, "at least 1"),
        ({"order": "diagonal"}, "window, wavefront"),
        ({"order": "wavefront", "pacing": PacingSettings(min_evaluations=2)}, "cannot be halved within a reply"),
    ],
)
def test_impossible_chunks_are_refused(chunks: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ChunkSchedule(**chunks)


# -- wavefront -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_blocks", [(1,), (1, 2, 4), (3,)])
@pytest.mark.parametrize(
    "solver",
    [
        SolverSettings("euler", 4),
        SolverSettings("euler", 3, guidance=0.0),
        SolverSettings("ab2", 5),
        SolverSettings("rk4", 8),
    ],
    ids=lambda solver: f"{solver.method}-{solver.evaluations}",
)
def test_a_wavefront_is_the_whole_utterance(
    parts: Parts, vocoder: Vocoder, solver: SolverSettings, chunk_blocks: tuple[int, ...]
) -> None:
    """Measured: equal bits. The tolerance allows for another order of rounding on another processor."""
    codec = codec_tokens(160, parts)
    chunks = ChunkSchedule(chunk_blocks=chunk_blocks, order="wavefront")
    whole, stream = (vocoder.state("Ethan", 3, solver, cut) for cut in (WHOLE, chunks))
    np.testing.assert_allclose(mel_of(vocoder, codec, stream, 7), mel_of(vocoder, codec, whole), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 12, 13, 36, 37, 48, 60])
def test_a_wavefront_may_end_anywhere(parts: Parts, vocoder: Vocoder, count: int) -> None:
    """Before the first chunk, with and without a pending last block, and within a block."""
    codec = codec_tokens(count, parts)
    chunks = ChunkSchedule(chunk_blocks=(1,), order="wavefront")
    whole, stream = (vocoder.state("Ethan", 3, FAST, cut) for cut in (WHOLE, chunks))
    streamed = mel_of(vocoder, codec, stream, 1)
    assert streamed.shape == (count * parts.section.frames_per_codec, parts.section.mel_dim)
    np.testing.assert_allclose(streamed, mel_of(vocoder, codec, whole), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("reach", "bound"), [(DEFAULT_REACH, 115), (1.0, 125)])
def test_a_wavefront_sounds_like_the_whole_utterance(parts: Parts, reach: float, bound: float) -> None:
    """Measured: 124 to 127 dB with BigVGAN's default look-ahead, equal bits with its whole reach."""
    vocoder, codec = parts.vocoder(reach), codec_tokens(90, parts)
    whole, stream = (vocoder.state("Ethan", 3, FAST, cut) for cut in (WHOLE, WAVEFRONT))
    assert snr(decode(vocoder, codec, whole), decode(vocoder, codec, stream, 7)) > bound


@pytest.mark.parametrize(
    ("chunks", "count", "blocks"),
    [
        # 12 blocks; each window but the last computes one more.
        (ChunkSchedule(1, (1,)), 144, 12 + 11),
        (ChunkSchedule(1, (4,)), 144, 12 + 2),
        (WHOLE, 144, 12),
        (WAVEFRONT, 143, 12),
        # All blocks have entered when the end comes, so the first evaluation takes one empty block more.
        (ChunkSchedule(chunk_blocks=(1,), order="wavefront"), 144, 12 + 1 / FAST.evaluations),
    ],
)
def test_a_wavefront_computes_every_block_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, chunks: ChunkSchedule, count: int, blocks: float
) -> None:
    vocoder = parts.vocoder()
    frames = []
    run = parts.dit.run

    def counted(feeds: Any, outputs: Any = None) -> Any:
        frames.append(feeds["mel"].shape[1])
        return run(feeds, outputs)

    monkeypatch.setattr(parts.dit, "run", counted)
    codec = codec_tokens(count, parts)
    mel_of(vocoder, codec, vocoder.state("Ethan", 1, FAST, chunks), push=1)
    assert sum(frames) == blocks * FAST.evaluations * parts.section.block_frames


def test_a_wavefront_keeps_one_block_for_each_evaluation(parts: Parts, vocoder: Vocoder) -> None:
    """The size does not depend on the length; Adams-Bashforth also keeps a velocity of each block."""
    section, sizes = parts.section, {}
    for solver in (SolverSettings("euler", 2), SolverSettings("euler", 4), SolverSettings("ab2", 4)):
        state = vocoder.state("Ethan", 1, solver, ChunkSchedule(chunk_blocks=(1,), order="wavefront"))
        assert vocoder.dit.step(codec_tokens(84, parts), state.dit) is not None
        size = state.dit.nbytes
        assert vocoder.dit.step(codec_tokens(84, parts), state.dit) is not None
        assert state.dit.nbytes == size
        sizes[solver.method, solver.evaluations] = size
        state.reset()
        assert state.nbytes == 0
    mel = section.block_frames * section.mel_dim * 4
    finished = mel + section.block_frames // section.frames_per_codec * 8
    assert sizes["euler", 4] - finished == 2 * (sizes["euler", 2] - finished)
    # Three of the four held blocks and the finished one have had a velocity.
    assert sizes["ab2", 4] - sizes["euler", 4] == 4 * mel


# -- pacing --------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that the cost of each run of the graph advances."""

    def __init__(self, graph: Any, seconds: Callable[[int], float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.runs: list[int] = []
        run = graph.run

        def timed(feeds: Any, outputs: Any = None) -> Any:
            self.now += seconds(feeds["mel"].shape[1])
            self.runs.append(feeds["mel"].shape[1])
            return run(feeds, outputs)

        monkeypatch.setattr(graph, "run", timed)


def paced(vocoder: Vocoder, chunks: ChunkSchedule, clock: Clock, solver: SolverSettings = FAST) -> VocoderState:
    state = vocoder.state("Ethan", 1, solver, chunks)
    assert chunks.pacing is not None
    state.dit.pacing = Pacing(chunks.pacing, 0.24, lambda: clock.now)
    return state


def mel_of_chunks(vocoder: Vocoder, codec: NDArray[np.int64], state: VocoderState) -> Samples:
    """The mel of `mel_of`, with each chunk reported to the pacing."""
    assert state.dit.pacing is not None
    blocks = []
    for index, token in enumerate(codec):
        block = vocoder.dit.step([token], state.dit, end=index == len(codec) - 1)
        while block is not None:
            blocks.append(block.final)
            state.dit.pacing.chunk_emitted(len(block.final) / 100)
            block = vocoder.dit.step((), state.dit)
    return np.concatenate(blocks)


def test_chunks_follow_the_pacing(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast machine finishes 1, 1, 2, 4, 4 blocks; each run has one block of look-ahead more."""
    vocoder, block = parts.vocoder(), parts.section.block_frames
    chunks = ChunkSchedule(pacing=PacingSettings(largest_chunk=4))
    clock = Clock(parts.dit, lambda frames: 0.0002 * frames, monkeypatch)
    state = paced(vocoder, chunks, clock)
    codec = codec_tokens(168, parts)
    mel = [vocoder.step([token], state) for token in codec]
    assert [frames // block for frames in clock.runs[:: FAST.evaluations]] == [2, 2, 3, 5, 5]
    rest = vocoder.step([], state, end=True)
    samples = np.concatenate([piece for piece in [*mel, rest] if piece is not None])
    cut = decode(vocoder, codec, vocoder.state("Ethan", 1, FAST, ChunkSchedule(chunk_blocks=(1, 1, 2, 4))))
    np.testing.assert_array_equal(samples, cut)
    state.reset()
    assert state.dit.pacing is not None
    assert state.dit.pacing.chunk_blocks == 1


def test_a_paced_wavefront_does_not_depend_on_the_clock(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder, codec = parts.vocoder(), codec_tokens(120, parts)
    chunks = ChunkSchedule(order="wavefront", pacing=PacingSettings(largest_chunk=4))
    cost = [0.0]
    clock = Clock(parts.dit, lambda frames: cost[0] * frames, monkeypatch)
    results = []
    for cost[0] in (0.0002, 0.004):
        clock.runs.clear()
        results.append((mel_of_chunks(vocoder, codec, paced(vocoder, chunks, clock)), list(clock.runs)))
    (fast, fast_runs), (slow, slow_runs) = results
    assert fast_runs != slow_runs
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-5)


def test_a_slow_machine_halves_the_evaluations(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """RTF 2 with four evaluations and 1 with two, which is the minimum that the settings allow."""
    vocoder, codec = parts.vocoder(), codec_tokens(120, parts)
    solver = SolverSettings("euler", 4)
    clock = Clock(parts.dit, lambda frames: 0.005 * frames, monkeypatch)
    chunks = ChunkSchedule(pacing=PacingSettings(largest_chunk=1, min_evaluations=2))
    state = paced(vocoder, chunks, clock, solver)
    mel = mel_of_chunks(vocoder, codec, state)
    assert state.dit.active_solver == SolverSettings("euler", 2)
    # The speed is known after two chunks.
    assert len(clock.runs) == 2 * 4 + 8 * 2
    block = parts.section.block_frames
    kept = mel_of(vocoder, codec, vocoder.state("Ethan", 1, solver, ChunkSchedule(chunk_blocks=(1,))))
    np.testing.assert_array_equal(mel[: 2 * block], kept[: 2 * block])
    assert 0 < snr(kept, mel) < 60
    state.reset()
    assert state.dit.active_solver == solver
    assert len(state.dit.evaluations) == 4
    with pytest.raises(UsageError, match="rk4 cannot be halved"):
        vocoder.state("Ethan", 1, SolverSettings("rk4", 8), chunks)
