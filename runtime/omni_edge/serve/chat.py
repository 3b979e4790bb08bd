"""`/v1/chat/completions`: text, sound, pictures and videos in; text and speech out, whole or streamed."""

from __future__ import annotations

import base64
import secrets
import time
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from omni_edge.conversation.settings import SessionSettings, check_voice
from omni_edge.events import AudioChunk, FinishReason, TextDelta, TurnDone
from omni_edge.serve.chat_request import ChatRequest, parse_chat_request
from omni_edge.serve.faults import RequestError, explain
from omni_edge.serve.http_io import EventStream, read_json
from omni_edge.serve.logprobs import LogProbabilities
from omni_edge.serve.service import Ask, Prefilled, Service
from omni_edge.serve.sound_format import sound_stream
from omni_edge.serve.tools import CallReader, ToolCall

# How long a client may name a reply by the id of its audio, and how many replies are kept for that.
_AUDIO_SECONDS = 3600
_MOST_REPLIES = 64
_FINISH: dict[FinishReason, str] = {"stop": "stop", "length": "length", "context_full": "length", "cancelled": "stop"}


@dataclass
class Answer:
    """A reply on its way to the client.

    Attributes:
        id: of the completion.
        audio_id: of its speech.
        created: when it began, seconds since 1970.
        reader: takes the calls out of its text.
        logprobs: takes the log probabilities of its tokens; None: nobody asked for them.
        cached: positions of the prompt that were in the caches.
        tokens: whose text came and whose log probabilities were not sent yet.
    """

    id: str
    audio_id: str
    created: int
    reader: CallReader
    logprobs: LogProbabilities | None = None
    cached: int = 0
    tokens: int = 0

    def finish_reason(self, done: TurnDone) -> str:
        """Why it ended, in OpenAI's words."""
        return "tool_calls" if self.reader.calls else _FINISH[done.finish_reason]

    @property
    def audio_expires(self) -> int:
        """When `audio_id` is forgotten, seconds since 1970."""
        return self.created + _AUDIO_SECONDS


class ChatCompletions:
    """The handler.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._replies: OrderedDict[str, tuple[int, str]] = OrderedDict()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        limits = self._service.settings.limits
        body = await read_json(request, self._service)
        chat = await self._service.help(lambda: parse_chat_request(body, limits, self._reply_of_audio))
        mask = await self._service.mask(chat.schema, chat.tools)
        logprobs = None
        if chat.logprobs is not None:
            logprobs = LogProbabilities(chat.logprobs, self._service.engine.model.tokenizer.decode)
        on_token = None if logprobs is None else logprobs.draw
        ask = Ask(
            session=self._session(chat),
            parts=await self._service.decoded(chat.history),
            reply=replace(chat.reply, mask=mask, on_token=on_token),
            max_new_tokens=chat.max_new_tokens,
            keep=True,
        )
        answer = Answer(
            f"chatcmpl-{secrets.token_hex(12)}",
            f"audio_{secrets.token_hex(12)}",
            int(time.time()),
            CallReader([tool.name for tool in chat.tools.tools]),
            logprobs,
        )
        if chat.stream:
            return await self._stream(request, chat, ask, answer)
        return await self._whole(chat, ask, answer)

    def _session(self, chat: ChatRequest) -> SessionSettings:
        manifest = self._service.engine.manifest
        if chat.spoken and not self._service.speaks:
            raise RequestError(
                "This model does not speak: it was exported with --text-only. Ask for modalities: ['text'].",
                param="modalities",
                code="unsupported_parameter",
            )
        if chat.voice is not None and chat.spoken:
            check_voice(chat.voice, manifest)
        return SessionSettings(
            system=self._service.system(chat.system, chat.tools, spoken=chat.spoken),
            speech=chat.spoken,
            voice=chat.voice if chat.spoken else None,
            context=self._service.settings.context,
        )

    async def _whole(self, chat: ChatRequest, ask: Ask, answer: Answer) -> web.Response:
        sound = sound_stream(chat.sound_format, self._rate()) if chat.spoken else None
        data = bytearray()
        done: TurnDone | None = None
        async with aclosing(self._service.answer(ask)) as events:
            async for event in events:
                match event:
                    case Prefilled():
                        answer.cached = event.cached
                    case AudioChunk() if sound is not None:
                        data += sound.push(event.samples)
                    case TurnDone():
                        done = event
        assert done is not None
        reader = answer.reader
        reader.push(done.text)
        reader.close()
        says = bool(reader.said or not reader.calls)
        message: dict[str, Any] = {"role": "assistant", "content": reader.said if says else None, "refusal": None}
        if reader.calls:
            message["tool_calls"] = [_call(call) for call in reader.calls]
        if sound is not None and says:
            data += sound.close()
            self._keep(answer, reader.said)
            message |= {"content": None, "audio": self._audio(answer, reader.said, bytes(data))}
        logprobs = None if answer.logprobs is None else answer.logprobs.take(len(done.token_ids))
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason(done), "logprobs": logprobs}
        return web.json_response(
            {
                "id": answer.id,
                "object": "chat.completion",
                "created": answer.created,
                "model": self._service.name,
                "choices": [choice],
                "usage": usage(done, answer.cached),
            }
        )

    async def _stream(self, request: web.Request, chat: ChatRequest, ask: Ask, answer: Answer) -> web.StreamResponse:
        stream = EventStream(request, self._service.settings.limits.send)
        try:
            return await self._send(stream, chat, ask, answer)
        except ConnectionError:
            raise
        except Exception as error:
            if not stream.begun:
                raise
            # The status is gone; the error is the last event.
            await stream.send({"error": explain(error).as_json()})
            return await stream.close(last=None)

    async def _send(self, stream: EventStream, chat: ChatRequest, ask: Ask, answer: Answer) -> web.StreamResponse:
        sound = sound_stream(chat.sound_format, self._rate()) if chat.spoken else None
        async with aclosing(self._service.answer(ask)) as events:
            async for event in events:
                match event:
                    case Prefilled():
                        answer.cached = event.cached
                        await stream.send(self._chunk(answer, {"role": "assistant", "content": None if sound else ""}))
                    case TextDelta():
                        if answer.logprobs is not None:
                            answer.tokens += len(event.token_ids)
                        await self._send_text(stream, answer, answer.reader.push(event.text), spoken=sound is not None)
                    case AudioChunk() if sound is not None:
                        if data := sound.push(event.samples):
                            await stream.send(self._chunk(answer, _audio_delta(answer, data=_base64(data))))
                    case TurnDone():
                        await self._send_text(stream, answer, answer.reader.close(), spoken=sound is not None)
                        if sound is not None and (answer.reader.said or not answer.reader.calls):
                            if data := sound.close():
                                await stream.send(self._chunk(answer, _audio_delta(answer, data=_base64(data))))
                            self._keep(answer, answer.reader.said)
                            await stream.send(
                                self._chunk(answer, _audio_delta(answer, expires_at=answer.audio_expires))
                            )
                        await stream.send(self._chunk(answer, {}, answer.finish_reason(event)))
                        if chat.include_usage:
                            last = self._chunk(answer, {}) | {"choices": [], "usage": usage(event, answer.cached)}
                            await stream.send(last)
        return await stream.close()

    async def _send_text(
        self, stream: EventStream, answer: Answer, pieces: list[str | ToolCall], *, spoken: bool
    ) -> None:
        for piece in pieces:
            if isinstance(piece, ToolCall):
                delta: dict[str, Any] = {"tool_calls": [{"index": answer.reader.calls.index(piece), **_call(piece)}]}
            else:
                delta = _audio_delta(answer, transcript=piece) if spoken else {"content": piece}
            await stream.send(self._chunk(answer, delta))

    def _chunk(self, answer: Answer, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        logprobs = None
        if answer.logprobs is not None and answer.tokens:
            logprobs, answer.tokens = answer.logprobs.take(answer.tokens), 0
        return {
            "id": answer.id,
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": self._service.name,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}],
        }

    def _rate(self) -> int:
        token2wav = self._service.engine.manifest.token2wav
        assert token2wav is not None
        return token2wav.sample_rate

    @staticmethod
    def _audio(answer: Answer, text: str, data: bytes) -> dict[str, Any]:
        return {"id": answer.audio_id, "data": _base64(data), "transcript": text, "expires_at": answer.audio_expires}

    # -- replies by the id of their audio ------------------------------------------------------------------------

    def _keep(self, answer: Answer, text: str) -> None:
        self._replies[answer.audio_id] = (answer.audio_expires, text)
        while len(self._replies) > _MOST_REPLIES:
            self._replies.popitem(last=False)

    def _reply_of_audio(self, name: str) -> str | None:
        expires, text = self._replies.get(name, (0, ""))
        return text if expires > time.time() else None


def usage(done: TurnDone, cached: int) -> dict[str, Any]:
    """The numbers of tokens; a position that a sound or picture takes counts as one."""
    text, spoken = len(done.token_ids), len(done.codec_tokens)
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": text + spoken,
        "total_tokens": done.prompt_tokens + text + spoken,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"audio_tokens": spoken, "reasoning_tokens": 0},
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _audio_delta(answer: Answer, **fields: Any) -> dict[str, Any]:
    return {"audio": {"id": answer.audio_id, **fields}}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
