"""`/v1/audio/transcriptions`: an uploaded sound, and an instruction to write it down."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from http import HTTPStatus

from aiohttp import BodyPartReader, web

from omni_edge.conversation.settings import ReplySettings, SessionSettings
from omni_edge.decoders.sampling import Sampling
from omni_edge.events import TextDelta, TurnDone
from omni_edge.serve.cached_conversation import Part
from omni_edge.serve.chat import usage
from omni_edge.serve.chat_request import text_part
from omni_edge.serve.data_uri import Attachment
from omni_edge.serve.faults import RequestError, explain
from omni_edge.serve.fields import Fields
from omni_edge.serve.http_io import EventStream
from omni_edge.serve.service import Ask, Prefilled, Service

_INSTRUCTION = "Transcribe the audio into text, without any other words."
_MOST_FIELDS = 32
_LONGEST_FIELD = 1 << 14
_FORMATS = ("json", "text", "verbose_json")


class Transcriptions:
    """The handler.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        sound, form = await self._read(request)
        form_format = form.choice("response_format", _FORMATS, "json")
        (part,) = await self._service.decoded([sound])
        ask = transcription_ask(
            self._service,
            part,
            form.optional_text("language", longest=64),
            form.optional_text("prompt"),
            _number(form, "temperature") or 0.0,
        )
        if form.optional_text("stream") == "true":
            return await self._stream(request, ask)
        done, cached = await self._whole(ask)
        if form_format == "text":
            return web.Response(text=done.text + "\n")
        answer: dict[str, object] = {"text": done.text, "usage": _usage(done, cached)}
        return web.json_response(answer)

    async def _whole(self, ask: Ask) -> tuple[TurnDone, int]:
        done, cached = None, 0
        async with aclosing(self._service.answer(ask)) as events:
            async for event in events:
                if isinstance(event, Prefilled):
                    cached = event.cached
                elif isinstance(event, TurnDone):
                    done = event
        assert done is not None
        return done, cached

    async def _stream(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        stream = EventStream(request, self._service.settings.limits.send)
        try:
            async with aclosing(self._service.answer(ask)) as events:
                async for event in events:
                    if isinstance(event, TextDelta) and event.text:
                        await stream.send({"type": "transcript.text.delta", "delta": event.text})
                    elif isinstance(event, TurnDone):
                        last = {"type": "transcript.text.done", "text": event.text, "usage": _usage(event, 0)}
                        await stream.send(last)
        except ConnectionError:
            raise
        except Exception as error:
            if not stream.begun:
                raise
            await stream.send({"type": "error", "error": explain(error).as_json()})
        return await stream.close()

    async def _read(self, request: web.Request) -> tuple[Attachment, Fields]:
        """The uploaded sound and the other fields of the form."""
        limits = self._service.settings.limits
        if request.content_type != "multipart/form-data":
            raise RequestError(
                "Send the sound as multipart/form-data, in the field 'file'.",
                status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                code="invalid_content_type",
            )
        try:
            async with asyncio.timeout(limits.body_seconds):
                sound, form = await _parts(request, limits.body)
        except TimeoutError:
            raise RequestError("The body did not come in time.", status=408, code="timeout") from None
        except (ValueError, KeyError, LookupError):
            raise RequestError("The form cannot be read. Send multipart/form-data.", code="invalid_form") from None
        if not sound:
            raise RequestError("The field 'file' is missing or empty.", param="file", code="missing_required_parameter")
        return Attachment("audio", bytes(sound), "file"), Fields(dict(form))


def transcription_ask(
    service: Service, sound: Part, language: str | None, prompt: str | None, temperature: float = 0.0
) -> Ask:
    """What asks for a transcript.

    Args:
        service: what is served.
        sound: what is transcribed.
        language: of the sound; None: unknown.
        prompt: of the client; None: none.
        temperature: of the sampling.
    """
    instruction = _INSTRUCTION if language is None else f"{_INSTRUCTION} The language is {language}."
    session = SessionSettings(speech=False, context=service.settings.context)
    reply = ReplySettings(sampling=Sampling(temperature=temperature), speech=False)
    return Ask(session, [sound, text_part(f"{instruction} {prompt or ''}".strip())], reply)


async def _parts(request: web.Request, most: int) -> tuple[bytearray, dict[str, str]]:
    sound, form, count = bytearray(), {}, 0
    async for part in await request.multipart():
        count += 1
        if not isinstance(part, BodyPartReader) or count > _MOST_FIELDS:
            raise RequestError("The form has too many or nested parts.", code="invalid_form")
        value = bytearray()
        limit = most if part.name == "file" else _LONGEST_FIELD
        while chunk := await part.read_chunk():
            value += chunk
            if len(value) > limit:
                raise RequestError("The form is too large.", status=413, code="request_too_large")
        if part.name == "file":
            sound = value
        else:
            form[part.name or ""] = value.decode("utf-8")
    return sound, form


def _number(form: Fields, name: str) -> float | None:
    text = form.optional_text(name, longest=32)
    try:
        value = Fields({name: None if text is None else float(text)})
    except ValueError:
        raise form.wrong(name, "must be a number") from None
    return value.number(name, 0, 2)


def _usage(done: TurnDone, cached: int) -> dict[str, object]:
    counted = usage(done, cached)
    return {
        "type": "tokens",
        "input_tokens": counted["prompt_tokens"],
        "output_tokens": counted["completion_tokens"],
        "total_tokens": counted["total_tokens"],
    }
