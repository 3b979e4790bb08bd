"""INT8 weights, sound in pieces and speech in pieces do not change nano's replies.

The checkpoint is exported here; figures over many exercises are in nano/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nano.data.exercises import Exercise, evaluation_set
from nano.evaluation.dialogue import GREEDY, WHOLE, converse, system_prompt, vocode
from nano.evaluation.held_out_sets import HeldOutSets
from omni_edge import AudioChunk, ChunkSchedule, OmniEdge, PcmBlock, Session, TurnDone
from omni_edge.media.load import load_audio
from support.commands import run_export

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT / "nano" / "omni-nano"
EXAMPLE = ROOT / "examples" / "turn-on-the-kitchen-light.wav"
ASKED = {"spoken_unseen_combinations": 6, "pictures": 8, "videos": 4, "sound_and_picture": 6, "conversation": 6}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OmniEdge]:
    def export(precision: str, *options: str) -> OmniEdge:
        out = tmp_path_factory.mktemp("nano") / precision
        result = run_export(CHECKPOINT, "--out", out, "--precision", precision, "--group-size", "64", *options)
        assert result.exit_code == 0, result.output
        return OmniEdge.load(out, threads=1)

    return export


@pytest.fixture(scope="module")
def speaking(exported: Callable[..., OmniEdge]) -> OmniEdge:
    """The whole model in float32."""
    return exported("fp32")


@pytest.fixture(scope="module")
def exercises() -> list[Exercise]:
    cache = HeldOutSets.from_repository().cache
    return [exercise for name, count in ASKED.items() for exercise in evaluation_set(name, cache, count)]


def answers(engine: OmniEdge, exercises: list[Exercise]) -> list[str]:
    found = []
    for exercise in exercises:
        session = engine.session(context=2048, speech=False, sampling=GREEDY, system=system_prompt(exercise))
        found.append(converse(session, exercise).done.text)
    return found


@pytest.fixture(scope="module")
def unquantized(speaking: OmniEdge, exercises: list[Exercise]) -> list[str]:
    return answers(speaking, exercises)


def test_float32_answers(unquantized: list[str], exercises: list[Exercise]) -> None:
    right = [text == exercise.reply for text, exercise in zip(unquantized, exercises, strict=True)]
    assert sum(right) >= 0.85 * len(right)


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.95), ("int4", 0.8)])
def test_fewer_bits_answer_the_same(
    exported: Callable[..., OmniEdge],
    unquantized: list[str],
    exercises: list[Exercise],
    precision: str,
    least: float,
) -> None:
    found = answers(exported(precision, "--text-only"), exercises)
    same = [one == other for one, other in zip(found, unquantized, strict=True)]
    assert sum(same) >= least * len(same)


@pytest.mark.parametrize("piece_s", [0.02, 0.3, 5.0])
def test_a_live_question_is_understood_as_it_is_when_whole(piece_s: float) -> None:
    clip = load_audio(EXAMPLE)
    session = OmniEdge.load(threads=1).session(context=512, speech=False, sampling=GREEDY)
    size = int(piece_s * clip.rate)
    for start in range(0, len(clip.samples), size):
        piece = clip.samples[start : start + size]
        session.push(PcmBlock(piece, clip.rate, end=start + size >= len(clip.samples)))
    assert _reply(session)[0].text == "The kitchen light is on."


@pytest.mark.parametrize(("chunks", "least_db"), [("exact", 80.0), ("growing", 20.0)])
def test_a_stream_of_speech_is_the_whole_utterance(speaking: OmniEdge, chunks: str, least_db: float) -> None:
    session = speaking.session(context=512, seed=5, chunks=ChunkSchedule.named(chunks))
    session.push("set a timer for forty five minutes")
    done, samples = _reply(session)
    whole = vocode(speaking, np.array(done.codec_tokens), session.voice, (5, 1), chunks=WHOLE)
    assert len(samples) == len(whole) > speaking.manifest.token2wav.sample_rate  # type: ignore[union-attr]
    noise = samples.astype(np.float64) - whole
    assert 10 * np.log10(np.square(whole).sum() / np.square(noise).sum()) >= least_db


def _reply(session: Session) -> tuple[TurnDone, np.ndarray]:
    events = list(session.reply())
    (done,) = [event for event in events if isinstance(event, TurnDone)]
    samples = [event.samples for event in events if isinstance(event, AudioChunk)]
    return done, np.concatenate([np.zeros(0, np.float32), *samples])
