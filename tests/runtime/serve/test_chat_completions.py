"""`/v1/chat/completions`, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI

from omni_edge import AudioChunk, OmniEdge, Sampling
from omni_edge.conversation.settings import ReplySettings
from omni_edge.media import load_audio

DATA = Path(__file__).parents[2] / "data"
GREEDY = Sampling(temperature=0)
QUESTION, REPLY = "turn on the kitchen light", "The kitchen light is on."


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def sound(file: str, kind: str) -> dict[str, Any]:
    data = base64.b64encode((DATA / file).read_bytes()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


def ask(client: OpenAI, messages: list[Any], **fields: Any) -> Any:
    return client.chat.completions.create(model="omni", messages=messages, temperature=0, **fields)


def test_a_question_in_text_is_answered(client: OpenAI) -> None:
    answer = ask(client, [user(QUESTION)])
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (REPLY, "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_has_the_same_text_and_the_usage_at_its_end(client: OpenAI) -> None:
    chunks = list(ask(client, [user(QUESTION)], stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == REPLY
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == ask(client, [user(QUESTION)]).usage.completion_tokens


@pytest.mark.parametrize(("file", "kind"), [("question.wav", "wav"), ("question.mp3", "mp3")])
def test_a_spoken_question_is_answered_as_the_library_answers_it(
    client: OpenAI, nano: OmniEdge, file: str, kind: str
) -> None:
    session = nano.session(speech=False, sampling=GREEDY)
    session.push(load_audio(DATA / file))
    expected = list(session.reply())[-1].text
    assert ask(client, [user([sound(file, kind)])]).choices[0].message.content == expected != ""


def test_log_probabilities_are_those_of_the_model(client: OpenAI, nano: OmniEdge) -> None:
    found: list[float] = []

    def draw(logits: np.ndarray, token: int) -> None:
        found.append(float(logits[token] - np.log(np.exp(logits.astype(np.float64)).sum())))

    session = nano.session(speech=False, sampling=GREEDY)
    session.push(QUESTION)
    list(session.reply(settings=ReplySettings(speech=False, on_token=draw)))
    answer = ask(client, [user(QUESTION)], logprobs=True, top_logprobs=3).choices[0]
    entries = answer.logprobs.content
    assert "".join(entry.token for entry in entries) == answer.message.content == REPLY
    np.testing.assert_allclose([entry.logprob for entry in entries], found[: len(entries)], atol=1e-5)
    assert all(bytes(entry.bytes).decode() == entry.token for entry in entries)
    for entry in entries:
        best = [other.logprob for other in entry.top_logprobs]
        assert (entry.top_logprobs[0].token, len(best), best) == (entry.token, 3, sorted(best, reverse=True))
    streamed = ask(client, [user(QUESTION)], logprobs=True, stream=True)
    chunks = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices]
    pieces = [entry for chunk in chunks if chunk is not None for entry in chunk.content]
    assert [(piece.token, piece.logprob) for piece in pieces] == [(entry.token, entry.logprob) for entry in entries]
    for wrong in ({"top_logprobs": 1}, {"logprobs": True, "top_logprobs": 21}):
        with pytest.raises(openai.BadRequestError, match="top_logprobs"):
            ask(client, [user(QUESTION)], **wrong)


def test_speech_has_the_samples_of_the_library(client: OpenAI, nano: OmniEdge) -> None:
    session = nano.session(seed=5, sampling=GREEDY, voice="Ethan")
    session.push(QUESTION)
    samples = np.concatenate([event.samples for event in session.reply() if isinstance(event, AudioChunk)])
    audio = {"voice": "Ethan", "format": "wav"}
    message = ask(client, [user(QUESTION)], modalities=["text", "audio"], audio=audio, seed=5).choices[0].message
    with wave.open(io.BytesIO(base64.b64decode(message.audio.data))) as file:
        assert (file.getframerate(), file.getnchannels()) == (24_000, 1)
        heard = np.frombuffer(base64.b64decode(message.audio.data)[44:], "<i2")
    np.testing.assert_array_equal(heard, np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2"))
    assert (message.content, message.audio.transcript) == (None, REPLY)

    streamed = ask(
        client,
        [user(QUESTION)],
        modalities=["text", "audio"],
        audio={"voice": "Ethan", "format": "pcm16"},
        seed=5,
        stream=True,
    )
    deltas = [chunk.choices[0].delta for chunk in streamed if chunk.choices]
    parts = [delta.to_dict()["audio"] for delta in deltas if "audio" in delta.to_dict()]
    assert "".join(part.get("transcript", "") for part in parts) == REPLY
    pcm = b"".join(base64.b64decode(part["data"]) for part in parts if "data" in part)
    np.testing.assert_array_equal(np.frombuffer(pcm, "<i2"), heard)
    assert len([part for part in parts if "data" in part]) > 1


def test_a_second_turn_reuses_the_caches_and_follows_from_the_first(client: OpenAI) -> None:
    first = ask(client, [user(QUESTION)])
    history = [user(QUESTION), {"role": "assistant", "content": REPLY}, user("turn it off")]
    second = ask(client, history)
    assert second.choices[0].message.content == "The kitchen light is off."
    cached = second.usage.prompt_tokens_details.cached_tokens
    # But for the token that closed the reply, everything of the first turn.
    assert cached >= first.usage.prompt_tokens + first.usage.completion_tokens - 1
    # A history that this server has not seen is prefilled, and gives the same.
    other = [user("turn on the bedroom light"), {"role": "assistant", "content": "The bedroom light is on."}]
    answer = ask(client, [*other, user("turn it off")])
    assert answer.choices[0].message.content == "The bedroom light is off."


def test_a_reply_may_be_named_by_its_audio(client: OpenAI) -> None:
    audio = {"voice": "Chelsie", "format": "wav"}
    first = ask(client, [user(QUESTION)], modalities=["text", "audio"], audio=audio).choices[0].message
    history = [user(QUESTION), {"role": "assistant", "audio": {"id": first.audio.id}}, user("turn it off")]
    assert ask(client, history).choices[0].message.content == "The kitchen light is off."


def test_limits_and_stop_texts_end_a_reply(client: OpenAI) -> None:
    short = ask(client, [user(QUESTION)], max_completion_tokens=2)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)
    stopped = ask(client, [user(QUESTION)], stop=[" light"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("The kitchen", "stop")


def test_a_picture_and_a_video_are_seen(client: OpenAI) -> None:
    for file, kind in (("cat.png", "image"), ("clip.mp4", "video")):
        data = base64.b64encode((DATA / file).read_bytes()).decode()
        part = {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/{file[-3:]};base64,{data}"}}
        answer = ask(client, [user([part, {"type": "text", "text": "what is this"}])])
        assert answer.usage.prompt_tokens > 30
        assert answer.choices[0].message.content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])]}, None),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])]}, None),
        ({"messages": [user([{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}])]}, None),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, fields: dict[str, Any], param: str | None) -> None:
    extra = {key: value for key, value in fields.items() if key != "messages"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="omni", messages=fields.get("messages", [user("hello")]), extra_body=extra)
    if param is not None:
        assert caught.value.param == param


def test_a_sound_that_is_none_is_refused(client: OpenAI) -> None:
    data = base64.b64encode(b"no sound at all").decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, [user([part])])
    assert caught.value.code == "invalid_media"
    with pytest.raises(openai.BadRequestError, match="There is no voice 'Nobody'"):
        ask(client, [user("hello")], modalities=["text", "audio"], audio={"voice": "Nobody", "format": "wav"})


def test_models_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "omni-nano"
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
