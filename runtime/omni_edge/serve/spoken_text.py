"""`/v1/audio/speech`: says exactly a given text, sentence by sentence, streamed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from omni_edge.conversation.settings import ReplySettings, SessionSettings, check_voice
from omni_edge.errors import UsageError
from omni_edge.events import AudioChunk
from omni_edge.serve.cached_conversation import UserPart
from omni_edge.serve.chat_request import read_seed, read_voice
from omni_edge.serve.faults import RequestError
from omni_edge.serve.fields import Fields
from omni_edge.serve.http_io import StreamedResponse, read_json
from omni_edge.serve.service import Ask, Service
from omni_edge.serve.sound_format import CONTENT_TYPES, sound_stream

# OpenAI's own limit.
LONGEST_TEXT = 4096
# A reply that is spoken at once; the model was trained on short ones.
_LONGEST_PIECE = 240
# The Talker reads a reply of the Thinker; this is the question that it answers.
_QUESTION = "Read this aloud: {text}"


class SpokenText:
    """The handler.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        body = await read_json(request, self._service)
        text = body.text("input", longest=LONGEST_TEXT).strip()
        if not text:
            raise body.wrong("input", "must not be empty")
        body.choice("stream_format", ("audio",), "audio")
        if body.number("speed", 0.25, 4) not in (None, 1.0):
            raise body.wrong("speed", "must be 1; this model has one speed", "unsupported_parameter")
        seed = read_seed(body)
        session = speech_session(self._service, _voice(body))
        token2wav = self._service.engine.manifest.token2wav
        assert token2wav is not None
        name = body.choice("response_format", CONTENT_TYPES, "mp3")
        sound = await self._service.help(lambda: sound_stream(name, token2wav.sample_rate))
        response = StreamedResponse(request, CONTENT_TYPES[name], self._service.settings.limits.send)
        async with aclosing(spoken(self._service, session, text, seed)) as chunks:
            async for chunk in chunks:
                if data := sound.push(chunk.samples):
                    await response.write(data)
        await response.write(sound.close())
        return await response.close()


def speech_session(service: Service, voice: str | None) -> SessionSettings:
    """The settings by which a text is spoken.

    Args:
        service: what is served.
        voice: speaker; None: the default one.

    Raises:
        RequestError: the model does not speak, or has no such voice.
    """
    if not service.speaks:
        raise RequestError("This model does not speak: it was exported with --text-only.", code="model_not_found")
    if voice is not None:
        try:
            check_voice(voice, service.engine.manifest)
        except UsageError as error:
            raise RequestError(str(error), param="voice") from None
    return SessionSettings(voice=voice, context=service.settings.context)


async def spoken(service: Service, session: SessionSettings, text: str, seed: int | None) -> AsyncGenerator[AudioChunk]:
    """The speech of a text, sentence by sentence. Use it within `aclosing`.

    Args:
        service: what is served.
        session: see `speech_session`.
        text: what is said.
        seed: of the speech; None: a random one.
    """
    for piece in sentences(text):
        question = _QUESTION.format(text=piece)
        ask = Ask(session, [UserPart(question, question)], ReplySettings(text=piece, seed=seed))
        async with aclosing(service.answer(ask)) as events:
            async for event in events:
                if isinstance(event, AudioChunk):
                    yield event


def _voice(body: Fields) -> str | None:
    voice = body.object("voice") if isinstance(body.raw("voice"), dict) else None
    return read_voice(voice.text("id") if voice is not None else body.optional_text("voice"))


def sentences(text: str) -> list[str]:
    """`text` in pieces that end with sentences where possible, else between words."""
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?;:。！？])\s*(?=\S)|\n+", text):
        words = sentence.split()
        if pieces and words and len(pieces[-1]) + len(sentence) < _LONGEST_PIECE // 4:
            pieces[-1] = f"{pieces[-1]} {' '.join(words)}"
            continue
        line = ""
        for word in words:
            if line and len(line) + len(word) >= _LONGEST_PIECE:
                pieces.append(line)
                line = ""
            line = f"{line} {word}".strip()
        if line:
            pieces += [line[start : start + _LONGEST_PIECE] for start in range(0, len(line), _LONGEST_PIECE)]
    return pieces
