"""Requests to `/v1/chat/completions`, read and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omni_edge.conversation.settings import ReplySettings
from omni_edge.decoders.sampling import Sampling
from omni_edge.serve.cached_conversation import ReplyPart, UserPart
from omni_edge.serve.data_uri import Attachment, decode_base64, read_data_uri
from omni_edge.serve.fields import Fields
from omni_edge.serve.settings import Limits
from omni_edge.serve.sound_format import CONTENT_TYPES
from omni_edge.serve.tools import ToolCall, ToolSet, read_tools, reply_text, result_text

Content = UserPart | ReplyPart | Attachment

_MOST_TOKENS = 1 << 20
_MOST_STOPS = 4
_MOST_LOGPROBS = 20
_SEED_MASK = (1 << 63) - 1
_SOUND_FORMATS = ("wav", "mp3", "flac", "ogg", "m4a", "webm")


@dataclass(frozen=True)
class ChatRequest:
    """A request that is in order.

    Attributes:
        system: the system prompt; None: the model's default.
        history: the conversation; files are not decoded yet.
        spoken: whether the reply is spoken.
        voice: speaker; None: the default one.
        sound_format: of the speech, one of `CONTENT_TYPES`.
        reply: how the reply is made, but for its mask.
        tools: functions that it may call.
        schema: JSON schema of the reply; None: it is free.
        max_new_tokens: text tokens at most; None: the bundle's default.
        stream: send the reply while it is made.
        include_usage: send the numbers of tokens at the end of a stream.
        logprobs: tokens whose log probabilities are sent beside each drawn one; None: not even its own.
    """

    system: str | None
    history: tuple[Content, ...]
    spoken: bool
    voice: str | None
    sound_format: str
    reply: ReplySettings
    tools: ToolSet
    schema: dict[str, Any] | None
    max_new_tokens: int | None
    stream: bool
    include_usage: bool
    logprobs: int | None


def parse_chat_request(body: Fields, limits: Limits, reply_of_audio: Callable[[str], str | None]) -> ChatRequest:
    """Reads a request.

    Args:
        body: its JSON.
        limits: what a client may use.
        reply_of_audio: the text of an earlier reply, by the id of its audio; None: not known any more.

    Raises:
        RequestError: something is missing, wrong or not supported.
    """
    body.refuse("audio_url", "functions", "function_call", "logit_bias", "prediction")
    body.refuse("presence_penalty", "frequency_penalty", "web_search_options")
    if body.integer("n", 1, 1 << 31) not in (None, 1):
        raise body.wrong("n", "must be 1; this server computes one reply at a time", "unsupported_parameter")
    stream = body.flag("stream")
    options = body.object("stream_options")
    modalities = body.strings("modalities", 4) or ["text"]
    if not set(modalities) <= {"text", "audio"}:
        raise body.wrong("modalities", "may hold 'text' and 'audio'")
    spoken = "audio" in modalities
    schema = _schema(body)
    if schema is not None and spoken:
        raise body.wrong("response_format", "must be text where the reply is spoken", "unsupported_parameter")
    tools = read_tools(body, flat=False)
    voice, sound_format = _audio(body, stream)
    system, history = _messages(body, limits, reply_of_audio)
    return ChatRequest(
        system=system,
        history=history,
        spoken=spoken,
        voice=voice,
        sound_format=sound_format,
        reply=ReplySettings(
            sampling=read_sampling(body),
            seed=read_seed(body),
            stop=_stop(body),
            speech=spoken,
            unspoken=tools.unspoken,
        ),
        tools=tools,
        schema=schema,
        max_new_tokens=body.integer("max_completion_tokens", 1, _MOST_TOKENS)
        or body.integer("max_tokens", 1, _MOST_TOKENS),
        stream=stream,
        include_usage=options is not None and options.flag("include_usage"),
        logprobs=_logprobs(body, spoken=spoken),
    )


def _logprobs(body: Fields, *, spoken: bool) -> int | None:
    """Tokens whose log probabilities are sent beside each drawn one; None: not even its own."""
    wanted, top = body.flag("logprobs"), body.integer("top_logprobs", 0, _MOST_LOGPROBS)
    if top is not None and not wanted:
        raise body.wrong("top_logprobs", "needs logprobs: true")
    if wanted and spoken:
        raise body.wrong("logprobs", "must be false where the reply is spoken", "unsupported_parameter")
    return (top or 0) if wanted else None


def read_sampling(body: Fields) -> Sampling:
    """How text tokens are drawn."""
    return Sampling(
        temperature=body.number("temperature", 0, 2),
        top_k=body.integer("top_k", 0, _MOST_TOKENS),
        top_p=body.number("top_p", 1e-6, 1),
        repetition_penalty=body.number("repetition_penalty", 0.01, 100),
    )


def read_seed(body: Fields) -> int | None:
    """The seed; a negative one, which OpenAI allows, becomes another number."""
    seed = body.integer("seed", -(1 << 63), (1 << 63) - 1)
    return None if seed is None else seed & _SEED_MASK


def read_voice(name: str | None) -> str | None:
    """A speaker's name; "default" and none are the bundle's."""
    return None if name in (None, "", "default") else name


def _audio(body: Fields, stream: bool) -> tuple[str | None, str]:
    """Voice and format of the speech."""
    usual = "pcm16" if stream else "wav"
    audio = body.object("audio")
    if audio is None:
        return None, usual
    voice = audio.object("voice") if isinstance(audio.raw("voice"), dict) else None
    name = voice.text("id") if voice is not None else audio.optional_text("voice")
    return read_voice(name), audio.choice("format", CONTENT_TYPES, usual)


def _stop(body: Fields) -> tuple[str, ...]:
    if isinstance(body.raw("stop"), str):
        stops = [body.text("stop", longest=1 << 10)]
    else:
        stops = body.strings("stop", _MOST_STOPS)
    if "" in stops:
        raise body.wrong("stop", "must not hold an empty text")
    return tuple(stops)


def _schema(body: Fields) -> dict[str, Any] | None:
    """The JSON schema of the reply."""
    form = body.object("response_format")
    kind = "text" if form is None else form.choice("type", ("text", "json_object", "json_schema"))
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    named = form.object("json_schema")
    schema = None if named is None else named.object("schema")
    if named is None or schema is None:
        raise form.wrong("json_schema", "must have a schema", "missing_required_parameter")
    return dict(named.raw("schema"))


# -- messages --------------------------------------------------------------------------------------------------------


def _messages(
    body: Fields, limits: Limits, reply_of_audio: Callable[[str], str | None]
) -> tuple[str | None, tuple[Content, ...]]:
    """The system prompt, and the conversation behind it."""
    messages = body.objects("messages", limits.items)
    if not messages:
        raise body.wrong("messages", "must hold at least one message", "missing_required_parameter")
    system: list[str] = []
    history: list[Content] = []
    before = ""
    for message in messages:
        role = message.choice("role", ("system", "developer", "user", "assistant", "tool"))
        if role in ("system", "developer"):
            if history:
                raise message.wrong("role", "must not be system or developer behind other messages")
            system.append(_plain_text(message, limits))
        elif role in ("user", "tool"):
            if before in ("user", "tool"):
                history.append(text_part("\n"))
            history += _user_content(message, limits) if role == "user" else [_result(message, limits)]
        else:
            history.append(ReplyPart(_reply_text(message, limits, reply_of_audio)))
        before = role
    if before not in ("user", "tool"):
        raise body.wrong("messages", "must end with a message of the user or of a tool")
    if len(history) > limits.items:
        raise body.wrong("messages", f"has {len(history)} parts; {limits.items} is the most", "array_above_max_length")
    return "\n".join(system) if system else None, tuple(history)


def text_part(text: str) -> UserPart:
    """Text of the user."""
    return UserPart(f"text {text}", text)


def _plain_text(message: Fields, limits: Limits) -> str:
    """The text of a message without files."""
    if not isinstance(message.raw("content"), list):
        return message.text("content", longest=limits.text)
    parts = message.objects("content", limits.items)
    for part in parts:
        part.choice("type", ("text", "refusal"))
    return "".join(part.text(part.text("type"), longest=limits.text) for part in parts)


def _reply_text(message: Fields, limits: Limits, reply_of_audio: Callable[[str], str | None]) -> str:
    message.refuse("function_call")
    calls = [_call(call, limits) for call in message.objects("tool_calls", limits.items)]
    if calls and not message.has("content") and not message.has("audio"):
        return reply_text("", calls)
    return reply_text(_said(message, limits, reply_of_audio), calls)


def _call(entry: Fields, limits: Limits) -> ToolCall:
    """A call that the model made."""
    entry.choice("type", ("function",), "function")
    function = entry.object("function")
    if function is None:
        raise entry.wrong("function", "is missing", "missing_required_parameter")
    return ToolCall(function.text("name"), function.text("arguments", longest=limits.text))


def _result(message: Fields, limits: Limits) -> UserPart:
    """What a function returned."""
    return text_part(result_text(_plain_text(message, limits)))


def _said(message: Fields, limits: Limits, reply_of_audio: Callable[[str], str | None]) -> str:
    audio = message.object("audio")
    if audio is not None and not message.has("content"):
        text = reply_of_audio(audio.text("id"))
        if text is None:
            raise audio.wrong("id", "is not known any more; send the transcript as content", "audio_not_found")
        return text
    return _plain_text(message, limits)


def _user_content(message: Fields, limits: Limits) -> list[Content]:
    if not isinstance(message.raw("content"), list):
        return [text_part(message.text("content", longest=limits.text))]
    parts = message.objects("content", limits.items)
    if not parts:
        raise message.wrong("content", "must not be empty")
    return [_user_part(part, limits) for part in parts]


def _user_part(part: Fields, limits: Limits) -> Content:
    kind = part.choice("type", ("text", "input_audio", "image_url", "video_url", "audio_url"))
    if kind == "text":
        return text_part(part.text("text", longest=limits.text))
    inner = part.object(kind)
    if inner is None:
        raise part.wrong(kind, "is missing", "missing_required_parameter")
    if kind == "input_audio":
        inner.choice("format", _SOUND_FORMATS, "wav")
        return Attachment("audio", decode_base64(inner.text("data", longest=limits.body), inner.at("data")), inner.path)
    sound = inner.flag("use_audio", True)
    uri = inner.text("url", longest=limits.body)
    return read_data_uri(uri, kind.removesuffix("_url"), inner.at("url"), sound=sound)
