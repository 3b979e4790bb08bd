"""One Wyoming client: it asks for transcripts, answers and speech, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import aclosing, suppress

import numpy as np

from omni_edge.conversation.settings import SessionSettings
from omni_edge.errors import ContextFullError, OmniEdgeError
from omni_edge.events import AudioClip, TextDelta, TurnDone
from omni_edge.serve.cached_conversation import Part, ReplyPart, UserPart
from omni_edge.serve.chat_request import text_part
from omni_edge.serve.faults import RequestError, explain
from omni_edge.serve.fields import Fields
from omni_edge.serve.service import Ask, Prefilled, Service
from omni_edge.serve.sound_format import from_pcm16, to_pcm16
from omni_edge.serve.spoken_text import LONGEST_TEXT, speech_session, spoken
from omni_edge.serve.transcription import transcription_ask
from omni_edge.serve.wyoming.info import info
from omni_edge.serve.wyoming.messages import Message, read_message

log = logging.getLogger("omni_edge.serve")

_PCM_WIDTH = 2
_RATES = (8_000, 192_000)
# Conversations whose earlier turns are remembered.
_MOST_CONVERSATIONS = 16
_MOST_PARTS = 32


class Conversations:
    """The turns of conversations, by the names that clients give them; shared by all connections."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, list[Part]] = OrderedDict()

    def parts(self, name: str | None) -> list[Part]:
        """The turns so far."""
        return list(self._kept.get(name, ())) if name is not None else []

    def keep(self, name: str | None, parts: list[Part]) -> None:
        """Keeps the turns; the oldest ones, and the oldest conversations, are forgotten."""
        if name is None:
            return
        self._kept[name] = parts[-_MOST_PARTS:]
        self._kept.move_to_end(name)
        while len(self._kept) > _MOST_CONVERSATIONS:
            self._kept.popitem(last=False)


class WyomingConnection:
    """The state of one client.

    Args:
        service: what is served.
        languages: of the model.
        conversations: those of all clients.
        reader, writer: the connection.
    """

    def __init__(
        self,
        service: Service,
        languages: tuple[str, ...],
        conversations: Conversations,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._service, self._languages, self._conversations = service, languages, conversations
        self._reader, self._writer = reader, writer
        self._language: str | None = None
        self._format: tuple[int, int] | None = None
        self._sound = bytearray()
        # A text that is spoken comes in pieces.
        self._text: str | None = None
        self._voice: str | None = None

    async def serve(self) -> None:
        """Answers until the client goes. A client that goes ends its reply within a step."""
        coming = asyncio.create_task(read_message(self._reader))
        try:
            while True:
                async with asyncio.timeout(self._service.settings.limits.session):
                    message = await coming
                if message is None:
                    return
                coming = asyncio.create_task(read_message(self._reader))
                answering = asyncio.create_task(self._answer(message))
                try:
                    await asyncio.wait([answering, coming], return_when=asyncio.FIRST_COMPLETED)
                    if coming.done() and coming.exception() is None and coming.result() is None:
                        answering.cancel()
                        with suppress(asyncio.CancelledError):
                            await answering
                        return
                    await answering
                finally:
                    answering.cancel()
        except RequestError as error:
            await self._send_error(error)
        finally:
            coming.cancel()
            with suppress(asyncio.CancelledError, RequestError):
                await coming

    async def _answer(self, message: Message) -> None:
        try:
            await self._dispatch(message)
        except ConnectionError:
            raise
        except Exception as error:
            if not isinstance(error, RequestError | OmniEdgeError):
                log.error("a Wyoming message failed: %s", type(error).__name__)
                log.debug("its traceback", exc_info=error)
            await self._send_error(explain(error))

    async def _dispatch(self, message: Message) -> None:
        fields = message.fields
        match message.kind:
            case "describe":
                await self._send("info", **info(self._service, self._languages))
            case "ping":
                await self._send("pong", text=fields.text("text", ""))
            case "transcribe":
                self._language = fields.optional_text("language", longest=64)
            case "audio-start":
                self._format, self._sound = _read_format(fields), bytearray()
            case "audio-chunk":
                self._listen(fields, message.payload)
            case "audio-stop":
                await self._transcribe()
            case "transcript":
                await self._handle(fields)
            case "synthesize" if self._text is None:
                await self._synthesize(fields.text("text", longest=LONGEST_TEXT), _read_voice(fields))
            case "synthesize-start":
                self._text, self._voice = "", _read_voice(fields)
            case "synthesize-chunk" if self._text is not None:
                self._text += fields.text("text", longest=LONGEST_TEXT)
                if len(self._text) > LONGEST_TEXT:
                    self._text = None
                    raise fields.wrong("text", f"is longer than {LONGEST_TEXT} characters", "string_above_max_length")
            case "synthesize-stop" if self._text is not None:
                text, self._text = self._text, None
                await self._synthesize(text, self._voice)
                await self._send("synthesize-stopped")
            case _:
                # The protocol asks for it: other events are for other services.
                log.debug("a Wyoming event was passed over")

    # -- what it does ----------------------------------------------------------------------------------------------

    def _listen(self, fields: Fields, payload: bytes) -> None:
        found = _read_format(fields)
        if self._format is None:
            self._format = found
        if found != self._format or len(payload) % (_PCM_WIDTH * found[1]):
            raise RequestError("A piece of sound has another format than the first one.", code="invalid_audio")
        rate, channels = found
        self._sound += payload
        longest = self._service.settings.limits.sound
        if len(self._sound) > longest * rate * channels * _PCM_WIDTH:
            self._sound = bytearray()
            raise RequestError(f"The sound is longer than {longest:.0f} s.", code="sound_too_long")

    async def _transcribe(self) -> None:
        form, sound = self._format, bytes(self._sound)
        self._format, self._sound = None, bytearray()
        if form is None or not sound:
            raise RequestError("There was no sound before audio-stop.", code="invalid_audio")
        rate, channels = form
        samples = from_pcm16(sound).reshape(-1, channels).mean(axis=1).astype(np.float32) / (1 << 15)
        ask = transcription_ask(self._service, UserPart("sound", AudioClip(samples, rate)), self._language, None)
        await self._written("transcript", ask)

    async def _handle(self, fields: Fields) -> None:
        context = fields.object("context")
        name = None if context is None else context.optional_text("conversation_id", longest=256)
        question = text_part(fields.text("text", longest=self._service.settings.limits.text))
        parts = [*self._conversations.parts(name), question]
        session = SessionSettings(speech=False, context=self._service.settings.context)
        while True:
            try:
                done = await self._written("handled", Ask(session, parts, keep=True))
                break
            except ContextFullError:
                if len(parts) == 1:
                    raise
                # The older half of the questions and replies leaves.
                del parts[: 2 * -(-(len(parts) // 2) // 2)]
        self._conversations.keep(name, [*parts, ReplyPart(done.text)])

    async def _written(self, kind: str, ask: Ask) -> TurnDone:
        """Sends a text as it is written, and then as a whole for clients that do not take it in pieces."""
        done: TurnDone | None = None
        async with aclosing(self._service.answer(ask)) as events:
            async for event in events:
                if isinstance(event, Prefilled):
                    await self._send(f"{kind}-start")
                elif isinstance(event, TextDelta) and event.text:
                    await self._send(f"{kind}-chunk", text=event.text)
                elif isinstance(event, TurnDone):
                    done = event
        assert done is not None
        await self._send(kind, text=done.text)
        await self._send(f"{kind}-stop")
        return done

    async def _synthesize(self, text: str, voice: str | None) -> None:
        session = speech_session(self._service, voice)
        token2wav = self._service.engine.manifest.token2wav
        assert token2wav is not None
        form = {"rate": token2wav.sample_rate, "width": _PCM_WIDTH, "channels": 1}
        await self._send("audio-start", **form, timestamp=0)
        if text.strip():
            async with aclosing(spoken(self._service, session, text.strip(), None)) as chunks:
                async for chunk in chunks:
                    await self._send_message(Message("audio-chunk", form, to_pcm16(chunk.samples)))
        await self._send("audio-stop")

    # -- sending ---------------------------------------------------------------------------------------------------

    async def _send(self, kind: str, **data: object) -> None:
        await self._send_message(Message(kind, data))

    async def _send_error(self, error: RequestError) -> None:
        await self._send("error", text=str(error), code=error.code or "error")

    async def _send_message(self, message: Message) -> None:
        self._writer.write(message.encoded())
        try:
            async with asyncio.timeout(self._service.settings.limits.send):
                await self._writer.drain()
        except TimeoutError:
            raise ConnectionResetError("the client does not take what is sent") from None


def _read_format(fields: Fields) -> tuple[int, int]:
    """Rate and channels of a sound."""
    rate, channels = fields.integer("rate", *_RATES), fields.integer("channels", 1, 2)
    if fields.integer("width", 1, 8) != _PCM_WIDTH or rate is None or channels is None:
        raise fields.wrong("width", "must be 2, with a rate and 1 or 2 channels", "invalid_audio")
    return rate, channels


def _read_voice(fields: Fields) -> str | None:
    voice = fields.object("voice")
    return None if voice is None else voice.optional_text("name")
