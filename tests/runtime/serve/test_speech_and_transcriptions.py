"""`/v1/audio/speech` and `/v1/audio/transcriptions`, asked by OpenAI's own client."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import openai
import pytest
from openai import OpenAI

from omni_edge import AudioChunk, OmniEdge
from omni_edge.conversation.settings import ReplySettings
from omni_edge.media import load_audio
from omni_edge.serve.spoken_text import sentences

QUESTION = Path(__file__).parents[2] / "data" / "question.wav"
TEXT = "Seven plus two is nine."


def test_a_given_text_is_spoken_as_it_stands(nano: OmniEdge) -> None:
    session = nano.session(seed=1)
    session.push("turn on the kitchen light")
    events = list(session.reply(settings=ReplySettings(text=TEXT)))
    assert (events[-1].text, events[-1].finish_reason) == (TEXT, "stop")
    assert sum(event.samples.size for event in events if isinstance(event, AudioChunk)) > 24_000


@pytest.mark.parametrize("name", ["pcm", "wav", "mp3", "flac", "opus"])
def test_a_text_is_spoken_in_every_format(client: OpenAI, name: str) -> None:
    speak = client.audio.speech.with_streaming_response.create
    with speak(model="omni", voice="Chelsie", input=TEXT, response_format=name, extra_body={"seed": 3}) as response:
        pieces = list(response.iter_bytes())
    data = b"".join(pieces)
    if name == "pcm":
        samples, rate = np.frombuffer(data, "<i2") / 32768, 24_000
    else:
        clip = load_audio(io.BytesIO(data))
        samples, rate = clip.samples, clip.rate
    assert 0.8 < samples.size / rate < 3
    assert float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) > 0.01


def test_long_texts_are_cut_between_sentences_and_words() -> None:
    assert sentences("One sentence that is long enough to stand for itself, more than sixty letters. Two!") == [
        "One sentence that is long enough to stand for itself, more than sixty letters.",
        "Two!",
    ]
    pieces = sentences("word " * 400 + "x" * 600)
    assert max(map(len, pieces)) <= 240
    assert " ".join(pieces).replace(" ", "") == "word" * 400 + "x" * 600
    assert sentences("\n\n") == []


def test_speech_refuses_what_it_cannot_do(client: OpenAI) -> None:
    for fields in ({"input": ""}, {"voice": "Nobody"}, {"speed": 2.0}):
        with pytest.raises(openai.BadRequestError):
            client.audio.speech.create(**{"model": "omni", "voice": "Chelsie", "input": TEXT, **fields})


def test_a_transcription_is_a_reply_to_the_sound(client: OpenAI) -> None:
    whole = client.audio.transcriptions.create(model="omni", file=QUESTION)
    assert whole.text
    events = list(client.audio.transcriptions.create(model="omni", file=QUESTION, stream=True))
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == whole.text
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(model="omni", file=("x.wav", b"nothing"))
