"""One Realtime client: its events in, one by one, and what they do."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

from omni_edge.conversation.settings import check_voice
from omni_edge.errors import OmniEdgeError
from omni_edge.live.turn_detector import Transition
from omni_edge.serve.cached_conversation import UserPart
from omni_edge.serve.data_uri import decode_base64
from omni_edge.serve.faults import RequestError, explain
from omni_edge.serve.fields import Fields, parse_json
from omni_edge.serve.realtime.conversation import RealtimeConversation
from omni_edge.serve.realtime.idle_timer import IdleTimer
from omni_edge.serve.realtime.items import Item, decode_sound, new_id, parse_item
from omni_edge.serve.realtime.microphone import Microphone, Turn, piece_seconds
from omni_edge.serve.realtime.response import Put
from omni_edge.serve.realtime.session_config import SessionConfig
from omni_edge.serve.service import Service

log = logging.getLogger("omni_edge.serve")

# Shorter sounds are no speech, as in OpenAI's interface.
_SHORTEST_SECONDS = 0.1


class RealtimeConnection:
    """The state of one client.

    Args:
        service: what is served.
        put: sends an event to it.
    """

    def __init__(self, service: Service, put: Put) -> None:
        self._service, self._send = service, put
        self._idle = IdleTimer(self._timed_out)
        self._id = new_id("sess")
        self._expires = int(time.time() + service.settings.limits.session)
        self._talk = RealtimeConversation(service, SessionConfig(spoken=service.speaks), self._put)
        self._microphone: Microphone | None = None
        self._listening: asyncio.Task[None] | None = None
        self._put({"type": "session.created", "session": self._session()})

    async def receive(self, text: str) -> None:
        """Takes a message; what is wrong with it is answered by an `error` event."""
        event_id: str | None = None
        try:
            event = parse_json(text)
            event_id = event.optional_text("event_id", longest=512)
            await self._dispatch(event)
        except Exception as error:
            if not isinstance(error, RequestError | OmniEdgeError):
                log.error("a Realtime event failed: %s", type(error).__name__)
                log.debug("its traceback", exc_info=error)
            self._put({"type": "error", "error": {**explain(error).as_json(), "event_id": event_id}})

    def _put(self, event: dict[str, Any]) -> None:
        """Sends an event."""
        self._send(event)
        detection = self._talk.config.turn_detection
        self._idle.watch(
            event, None if detection is None else detection.idle_timeout, lambda: self._talk.speech_seconds
        )

    def _timed_out(self) -> None:
        """The user has said nothing for the time of `idle_timeout_ms`: the model answers that."""
        if self._talk.active is not None:
            return
        item = Item(new_id("item"), "user", [{"type": "input_audio", "transcript": None}])
        end = 0 if self._microphone is None else round(1000 * self._microphone.seconds)
        self._put({
            "type": "input_audio_buffer.timeout_triggered",
            "audio_start_ms": end,
            "audio_end_ms": end,
            "item_id": item.id,
        })  # fmt: skip
        previous = self._talk.items[-1].id if self._talk.items else None
        self._put({"type": "input_audio_buffer.committed", "previous_item_id": previous, "item_id": item.id})
        self._talk.add(item, None)
        self._talk.respond(self._talk.config)

    async def close(self) -> None:
        """The client has gone."""
        self._idle.stop()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        await self._talk.close()

    async def _dispatch(self, event: Fields) -> None:
        kind = event.text("type", longest=128)
        match kind:
            case "session.update":
                self._update(event)
            case "input_audio_buffer.append":
                await self._append(event)
            case "input_audio_buffer.commit":
                self._commit()
            case "input_audio_buffer.clear":
                if self._microphone is not None:
                    self._microphone.clear()
                self._put({"type": "input_audio_buffer.cleared"})
            case "conversation.item.create":
                await self._create(event)
            case "conversation.item.retrieve":
                item = self._talk.find(event.text("item_id"))
                self._put({"type": "conversation.item.retrieved", "item": item.as_json()})
            case "conversation.item.delete":
                item = self._idle_item(event)
                self._talk.remove(item)
                self._put({"type": "conversation.item.deleted", "item_id": item.id})
            case "conversation.item.truncate":
                self._truncate(event)
            case "response.create":
                response = event.object("response") or Fields({}, "response")
                config = self._talk.config.for_response(response)
                self._check(config)
                self._talk.respond(config, response.raw("metadata"))
            case "response.cancel":
                if not await self._talk.cancel("client_cancelled"):
                    raise RequestError("No response is in progress.", code="response_cancel_not_active")
            case _:
                raise RequestError(
                    "This server has no such event. docs/serve.md lists those that it has.",
                    code="unknown_event",
                    param="type",
                )

    # -- the session -----------------------------------------------------------------------------------------------

    def _session(self) -> dict[str, Any]:
        engine = self._service.engine
        return self._talk.config.as_json(self._id, self._service.name, engine.voices, self._expires)

    def _update(self, event: Fields) -> None:
        session = event.object("session")
        if session is None:
            raise event.wrong("session", "is missing", "missing_required_parameter")
        config = self._talk.config.updated(session)
        self._check(config)
        before = self._talk.config
        if config.voice != before.voice and self._talk.spoke:
            raise RequestError("The voice cannot change after the first speech.", code="cannot_update_voice")
        if config.turn_detection != before.turn_detection and self._microphone is not None:
            self._microphone = self._make_microphone(config, self._microphone.seconds)
        self._talk.config = config
        self._put({"type": "session.updated", "session": self._session()})

    def _check(self, config: SessionConfig) -> None:
        if config.spoken and not self._service.speaks:
            raise RequestError("This model does not speak. Ask for output_modalities: ['text'].", code="unsupported")
        if config.voice is not None:
            check_voice(config.voice, self._service.engine.manifest)

    # -- the user's sound ------------------------------------------------------------------------------------------

    def _make_microphone(self, config: SessionConfig, began: float = 0.0) -> Microphone:
        detection = config.turn_detection
        if detection is None:
            return Microphone(None, None, began=began)
        complete = self._service.sentence_detector if detection.kind == "semantic_vad" else None
        return Microphone(detection, self._service.voice_detector(), complete, began)

    async def _append(self, event: Fields) -> None:
        config = self._talk.config
        data = decode_base64(event.text("audio", longest=self._service.settings.limits.message), "audio")
        samples = decode_sound(data, config)
        microphone = self._microphone = self._microphone or self._make_microphone(config)
        for piece in piece_seconds(samples, config.input_rate):
            for heard in await self._service.help(partial(microphone.step, piece, config.input_rate)):
                over = microphone.apply(heard)
                if heard.transition is Transition.STARTED and microphone.turn is not None:
                    await self._started(microphone.turn, microphone.time(heard))
                elif heard.transition is Transition.ENDED and over is not None:
                    stopped = {"audio_end_ms": microphone.time(heard), "item_id": over.item_id}
                    self._put({"type": "input_audio_buffer.speech_stopped", **stopped})
                    await self._take(over, respond=True)
        self._check_length(microphone)
        if microphone.turn is not None and microphone.said and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._talk.listen(microphone.turn))

    async def _started(self, turn: Turn, milliseconds: int) -> None:
        started = {"audio_start_ms": milliseconds, "item_id": turn.item_id}
        self._put({"type": "input_audio_buffer.speech_started", **started})
        detection = self._talk.config.turn_detection
        if detection is not None and detection.interrupt_response:
            await self._talk.cancel("turn_detected")

    def _check_length(self, microphone: Microphone) -> None:
        longest = self._service.settings.limits.sound
        if microphone.turn is not None and microphone.turn.sound.seconds > longest:
            microphone.clear()
            raise RequestError(
                f"The input audio buffer holds more than {longest:.0f} s, and was cleared.",
                code="input_audio_buffer_full",
            )

    def _commit(self) -> None:
        microphone = self._microphone
        turn = None if microphone is None else microphone.turn
        if microphone is None or turn is None or turn.sound.seconds < _SHORTEST_SECONDS:
            raise RequestError(
                "The input audio buffer holds less than 100 ms of sound.", code="input_audio_buffer_commit_empty"
            )
        microphone.commit()
        self._add_turn(turn)

    async def _take(self, turn: Turn, *, respond: bool) -> None:
        self._add_turn(turn)
        detection = self._talk.config.turn_detection
        if respond and detection is not None and detection.create_response and self._talk.active is None:
            self._talk.respond(self._talk.config)

    def _add_turn(self, turn: Turn) -> None:
        previous = self._talk.place_of(turn)
        item = Item(turn.item_id, "user", [{"type": "input_audio", "transcript": None}], [turn.sound.part()])
        committed = {"previous_item_id": previous, "item_id": item.id}
        self._put({"type": "input_audio_buffer.committed", **committed})
        self._talk.add(item, previous or "root")
        if self._talk.config.transcription:
            error = {"type": "server_error", "code": "unsupported", "message": "This server does not transcribe."}
            failed = {"item_id": item.id, "content_index": 0, "error": error}
            self._put({"type": "conversation.item.input_audio_transcription.failed", **failed})

    # -- items -----------------------------------------------------------------------------------------------------

    async def _create(self, event: Fields) -> None:
        fields = event.object("item")
        if fields is None:
            raise event.wrong("item", "is missing", "missing_required_parameter")
        new = parse_item(fields, self._talk.config, self._service.settings.limits)
        parts = await self._service.decoded(new.contents)
        new.item.parts = [part for part in parts if isinstance(part, UserPart)]
        self._talk.add(new.item, event.optional_text("previous_item_id"))
        turn = None if self._microphone is None else self._microphone.turn
        if turn is not None and turn.sound.pieces and new.item.is_pictures:
            turn.pictures.append(new.item)

    def _idle_item(self, event: Fields) -> Item:
        item = self._talk.find(event.text("item_id"))
        active = self._talk.active
        if active is not None and active.item is item:
            raise RequestError("The item's response is in progress. Cancel it first.", code="item_in_progress")
        return item

    def _truncate(self, event: Fields) -> None:
        item = self._idle_item(event)
        milliseconds = event.integer("audio_end_ms", 0, 1 << 40)
        index = event.integer("content_index", 0, 0)
        if item.role != "assistant" or not item.rate or milliseconds is None:
            raise RequestError("Only a spoken reply can be truncated, at audio_end_ms.", code="invalid_truncation")
        if milliseconds > 1000 * item.samples / item.rate + 1:
            raise RequestError(
                f"The speech is {1000 * item.samples // item.rate} ms long, shorter than audio_end_ms.",
                code="invalid_truncation",
                param="audio_end_ms",
            )
        item.cut(milliseconds / 1000)
        truncated = {"item_id": item.id, "content_index": index or 0, "audio_end_ms": milliseconds}
        self._put({"type": "conversation.item.truncated", **truncated})
