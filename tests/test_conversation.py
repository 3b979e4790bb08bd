"""Whole conversations against the reference: every kind of input, two turns; equal tokens, the same waveform."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_edge import (
    AudioChunk,
    AudioClip,
    ImageFrame,
    OmniEdge,
    PcmBlock,
    Sampling,
    Session,
    SolverSettings,
    TurnDone,
    VideoClip,
)
from omni_edge.vocoder.noise import seeded_noise
from support.checkpoints import Case
from support.oracle import AUDIO_RATE, Answer, Film, Part, Question, ask

TOKENS, CODEC_TOKENS = 14, 40
GREEDY = Sampling(temperature=0)


def tone(seconds: float, frequency: float = 300.0) -> np.ndarray:
    """A sound with a changing spectrum: a rising tone in a little noise."""
    t = np.arange(int(seconds * AUDIO_RATE)) / AUDIO_RATE
    noise = np.random.default_rng(0).standard_normal(t.size) * 0.01
    return (0.3 * np.sin(2 * np.pi * (frequency + 400 * t) * t) + noise).astype(np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / rng.uniform(5, 30) + y / rng.uniform(5, 30)) * 127 + 128 for _ in range(3)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def film(frames: int, fps: float, sound: bool) -> Film:
    return Film(
        np.stack([picture(60, 90, index) for index in range(frames)]), fps, tone(frames / fps) if sound else None
    )


QUESTIONS: dict[str, list[Part]] = {
    "text": ["What is the time?"],
    "sound": [tone(2.5), "What did I say?"],
    "two sounds": [tone(0.7), tone(4.03, 500), "Which is longer?"],
    "image": [picture(97, 150), "What is this?"],
    "sound and image": [tone(1.3), picture(120, 60), picture(56, 56, 3), "Does it fit?"],
    "video": [film(6, 2.0, False), "What moves?"],
    "video with sound": [film(8, 1.7, True), "What happens when?"],
}


@dataclass(frozen=True)
class Asked:
    """The reference's side of one comparison."""

    case: Case
    engine: OmniEdge
    model: Any


@pytest.fixture(scope="module")
def asked(case: Case, reference: Any, fp32_bundle: Path) -> Asked:
    return Asked(case, OmniEdge.load(fp32_bundle, threads=1), reference)


def push(session: Session, part: Part) -> None:
    if isinstance(part, str):
        session.push(part)
    elif isinstance(part, Film):
        sound = AudioClip(part.sound, AUDIO_RATE) if part.sound is not None else None
        session.push(VideoClip(part.frames, part.fps, sound))
    elif part.ndim == 1:
        session.push(AudioClip(part, AUDIO_RATE))
    else:
        session.push(ImageFrame(part))


def run(session: Session, tokens: int = TOKENS, codec_tokens: int = CODEC_TOKENS) -> tuple[TurnDone, np.ndarray]:
    events = list(session.reply(max_new_tokens=tokens, max_codec_tokens=codec_tokens))
    chunks = [event.samples for event in events if isinstance(event, AudioChunk)]
    done = events[-1]
    assert isinstance(done, TurnDone)
    return done, np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def oracle(asked: Asked, question: Question, **settings: Any) -> Answer:
    return ask(
        asked.model,
        asked.case.path,
        question,
        speaker="Ethan",
        max_new_tokens=TOKENS,
        max_codec_tokens=CODEC_TOKENS,
        **settings,
    )


def session_of(asked: Asked, **settings: Any) -> Session:
    return asked.engine.session(voice="Ethan", seed=7, sampling=GREEDY, talker_sampling=GREEDY, **settings)


def question_of(asked: Asked, parts: list[Part]) -> Question:
    question = Question(asked.engine.model.image_processor)
    question.system(asked.engine.manifest.text.speech_system)
    question.user(parts)
    return question


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_greedy_tokens_equal_the_reference(asked: Asked, name: str) -> None:
    session = session_of(asked)
    for part in QUESTIONS[name]:
        push(session, part)
    done, samples = run(session)
    expected = oracle(asked, question_of(asked, QUESTIONS[name]))
    assert done.prompt_tokens == expected.prompt_tokens
    assert list(done.token_ids) == expected.tokens
    assert list(done.codec_tokens) == expected.codec_tokens
    assert samples.size == expected.waveform.size


def test_waveform_equals_the_reference(asked: Asked) -> None:
    seed = 7
    session = session_of(asked, solver=SolverSettings("rk4", 36, guidance=0.5))
    session.push("What is the time?")
    _, samples = run(session)
    section = asked.engine.manifest.token2wav
    assert section is not None
    # The noise of the first reply, block by block.
    block = seeded_noise((seed, 1), section.block_frames, section.mel_dim)
    noise = np.concatenate([block(index) for index in range(8)])[None]
    expected = oracle(asked, question_of(asked, ["What is the time?"]), noise=noise).waveform
    assert samples.shape == expected.shape
    error = np.sqrt(np.mean((samples - expected) ** 2) / np.mean(expected**2))
    assert 20 * np.log10(error) < -40


def test_penalties_apply_to_greedy_decoding_too(asked: Asked) -> None:
    sampling = Sampling(temperature=0, repetition_penalty=1.3)
    session = asked.engine.session(voice="Ethan", seed=7, sampling=sampling, talker_sampling=sampling)
    session.push("Say it again.")
    done, _ = run(session)
    expected = oracle(
        asked,
        question_of(asked, ["Say it again."]),
        thinker_repetition_penalty=1.3,
        talker_repetition_penalty=1.3,
    )
    assert list(done.token_ids) == expected.tokens
    assert list(done.codec_tokens) == expected.codec_tokens


def test_two_turns_equal_the_reference_and_prefill_nothing_twice(asked: Asked) -> None:
    session = session_of(asked)
    first: list[Part] = [tone(1.1), "Hello."]
    second: list[Part] = [picture(84, 84), "And this?"]
    for part in first:
        push(session, part)
    # Short enough for the random model not to write a media mark, on which the reference's position rules fail.
    done, _ = run(session, tokens=4)
    # All tokens of the prompt and the reply once; the last token waits for the next prefill.
    assert session.offset == done.prompt_tokens + len(done.token_ids)
    for part in second:
        push(session, part)
    again, _ = run(session)

    question = question_of(asked, first)
    # The reference reads its own reply back as tokens; here they are put in as such, so that no tokenizer interferes.
    reply = [token for token in done.token_ids if token not in asked.engine.manifest.text.eos_tokens]
    question.assistant("".join(f"\x00{token}\x00" for token in reply))
    question.user(second)
    expected = oracle(asked, SplicedQuestion(**vars(question)))
    assert again.prompt_tokens == expected.prompt_tokens
    assert list(again.token_ids) == expected.tokens
    assert list(again.codec_tokens) == expected.codec_tokens


class SplicedQuestion(Question):
    """A question in which \\0id\\0 stands for the token id itself."""

    def inputs(self, tokenizer: Any) -> dict[str, Any]:
        class Splicing:
            @staticmethod
            def encode(text: str, **settings: Any) -> Any:
                pieces = text.split("\x00")
                ids: list[int] = []
                for index, piece in enumerate(pieces):
                    ids += [int(piece)] if index % 2 else tokenizer.encode(piece, **settings).ids
                return type("Encoding", (), {"ids": ids})

        return super().inputs(Splicing)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", [[1.0], [0.25, 0.31, 0.9, 1.0], [i / 50 for i in range(1, 51)]])
def test_any_split_of_a_live_sound_gives_the_same_reply(asked: Asked, split: list[float]) -> None:
    sound = tone(4.6)
    session = session_of(asked, speech=False)
    start = 0
    for part in split:
        stop = int(part * sound.size)
        session.push(PcmBlock(sound[start:stop], AUDIO_RATE, end=stop == sound.size))
        start = stop
    session.push("What?")
    whole = session_of(asked, speech=False)
    whole.push(PcmBlock(sound, AUDIO_RATE, end=True))
    whole.push("What?")
    assert run(session)[0].token_ids == run(whole)[0].token_ids


def test_reset_gives_a_fresh_conversation(asked: Asked) -> None:
    session = session_of(asked)
    session.push("One.")
    first = run(session)
    session.push("Two.")
    run(session)
    session.reset()
    session.push("One.")
    again = run(session)
    assert again[0].token_ids == first[0].token_ids
    np.testing.assert_array_equal(again[1], first[1])
