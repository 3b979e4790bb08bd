"""A Realtime conversation: its items, the user's sound, and the one response in progress."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from omni_edge.conversation.settings import ReplySettings, SessionSettings
from omni_edge.errors import ContextFullError, OmniEdgeError
from omni_edge.events import AudioChunk, TextDelta, TurnDone
from omni_edge.serve.cached_conversation import CachedConversation, ReplyPart
from omni_edge.serve.chat_request import text_part
from omni_edge.serve.faults import RequestError, explain
from omni_edge.serve.realtime.items import Item, rendered
from omni_edge.serve.realtime.microphone import Turn
from omni_edge.serve.realtime.response import Put, Response
from omni_edge.serve.realtime.session_config import SessionConfig
from omni_edge.serve.service import Service

log = logging.getLogger("omni_edge.serve")


class RealtimeConversation:
    """The conversation of one client. One event loop.

    Args:
        service: what is served.
        config: the session's settings.
        put: sends an event.

    Attributes:
        config: the session's settings.
        items: those of the conversation, in order.
        spoke: whether any speech was sent.
    """

    def __init__(self, service: Service, config: SessionConfig, put: Put) -> None:
        self._service, self._put = service, put
        self.config = config
        self.items: list[Item] = []
        self.spoke = False
        # Items at the beginning that the context has no room for any more.
        self._dropped = 0
        self._cached: CachedConversation | None = None
        self._using = asyncio.Lock()
        self._response: Response | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def active(self) -> Response | None:
        """The response in progress."""
        return None if self._response is None or self._response.closed else self._response

    @property
    def speech_seconds(self) -> float:
        """Length of the last reply's speech; 0: it has none."""
        last = next((item for item in reversed(self.items) if item.role == "assistant" and item.call is None), None)
        return 0.0 if last is None or not last.rate else last.samples / last.rate

    # -- items -----------------------------------------------------------------------------------------------------

    def find(self, item_id: str) -> Item:
        """An item by its name.

        Raises:
            RequestError: there is none.
        """
        for item in self.items:
            if item.id == item_id:
                return item
        raise RequestError("There is no item of that name.", code="item_not_found", param="item_id")

    def add(self, item: Item, after: str | None) -> None:
        """Adds an item behind another one ("root": at the beginning; None: at the end).

        Where there are too many, or their sounds and pictures too large, the older half leaves first.

        Raises:
            RequestError: there is no such item, the name is taken, or this one alone is too large.
        """
        if any(other.id == item.id for other in self.items):
            raise RequestError("An item of that name exists.", code="item_exists", param="item.id")
        place = len(self.items)
        if after is not None:
            place = 0 if after == "root" else self.items.index(self.find(after)) + 1
        place = max(0, place - self._make_room(item))
        self.items.insert(place, item)
        previous = self.items[place - 1].id if place else None
        for kind in ("added", "done"):
            event = {"type": f"conversation.item.{kind}", "previous_item_id": previous, "item": item.as_json()}
            self._put(event)

    def _make_room(self, item: Item) -> int:
        """Takes the older half away until `item` has room; returns the number of items that left."""
        limits, before = self._service.settings.limits, len(self.items)
        if item.nbytes > limits.decoded:
            raise RequestError("The item's sounds and pictures are too large.", code="item_too_large")
        while len(self.items) >= limits.items or sum(each.nbytes for each in self.items) + item.nbytes > limits.decoded:
            # Each time costs a prefill of what stays, so many leave at once.
            leaving = -(-len(self.items) // 2)
            del self.items[:leaving]
            self._dropped = max(0, self._dropped - leaving)
        return before - len(self.items)

    def remove(self, item: Item) -> None:
        """Takes an item away."""
        if self.items.index(item) < self._dropped:
            self._dropped -= 1
        self.items.remove(item)

    def place_of(self, turn: Turn) -> str | None:
        """The id of the item in front of a spoken turn, which comes before the pictures of it; None: it is the first.

        Sound that was prefilled while it was spoken would otherwise be prefilled again behind each picture.
        """
        pictures = [index for index, item in enumerate(self.items) if item in turn.pictures]
        place = max(self._dropped, min(pictures, default=len(self.items)))
        return self.items[place - 1].id if place else None

    # -- what the model does ---------------------------------------------------------------------------------------

    async def listen(self, turn: Turn) -> None:
        """Prefills what was said so far, where no response is in progress; what goes wrong is said by the response."""
        if self.active is not None or self._using.locked():
            return
        with suppress(OmniEdgeError):
            async with self._using:
                cached = await self._session()
                parts = rendered([item for item in self.items[self._dropped :] if item not in turn.pictures])
                await self._service.model.run_until_cancelled(lambda: cached.listen(parts, turn.sound), cached.cancel)

    def respond(self, config: SessionConfig, metadata: Any = None) -> None:
        """Begins a response.

        Raises:
            RequestError: one is in progress, or there is nothing to answer.
        """
        if self.active is not None:
            raise RequestError(
                "A response is in progress. Cancel it, or wait for response.done.",
                code="conversation_already_has_active_response",
            )
        token2wav = self._service.engine.manifest.token2wav
        rate = token2wav.sample_rate if config.spoken and token2wav is not None else None
        response = self._response = Response(config, self._put, rate, metadata)
        response.created()
        self._task = asyncio.create_task(self._respond(response))

    async def cancel(self, reason: str) -> bool:
        """Ends the response in progress, within a step; False: there is none."""
        response, task = self.active, self._task
        if response is None or task is None:
            return False
        response.reason = reason
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
        if not response.closed:  # the task had not begun
            response.cancelled()
        return True

    async def close(self) -> None:
        """The client has gone."""
        await self.cancel("client_cancelled")
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _respond(self, response: Response) -> None:
        try:
            async with self._using, self._service.model.generation():
                await self._generate(response)
        except asyncio.CancelledError:
            response.cancelled()
        except Exception as error:
            if not isinstance(error, RequestError | OmniEdgeError):
                log.error("a response failed: %s", type(error).__name__)
                log.debug("its traceback", exc_info=error)
            response.failed(explain(error))

    async def _generate(self, response: Response) -> None:
        cached = await self._session(response.config)
        reused = await self._hold(cached)
        tools = response.config.tools
        mask = await self._service.mask(None, tools)
        settings = ReplySettings(speech=response.rate is not None, unspoken=tools.unspoken, mask=mask)
        steps = cached.reply(settings, response.config.max_output_tokens, None)
        response.begin(self._place)
        async with aclosing(self._service.model.events(steps, cached.cancel)) as events:
            async for event in events:
                if isinstance(event, TurnDone):
                    self._service.metrics.reply(event, reused)
                    response.done(event, reused)
                elif isinstance(event, TextDelta | AudioChunk):
                    self.spoke = self.spoke or isinstance(event, AudioChunk)
                    response.event(event)

    def _place(self, item: Item) -> str | None:
        """Adds an item of the response; returns the id of the one in front of it."""
        previous = self.items[-1].id if self.items else None
        self.items.append(item)
        return previous

    async def _hold(self, cached: CachedConversation) -> int:
        """Puts the conversation into the caches; drops its oldest items where there is no room."""
        while True:
            parts = rendered(self.items[self._dropped :])
            if not parts or isinstance(parts[-1], ReplyPart):
                # The model speaks first, or again: it answers a turn in which the user says nothing.
                parts.append(text_part(""))
            try:
                return await self._service.model.run_until_cancelled(partial(cached.hold, parts), cached.cancel)
            except ContextFullError:
                left = len(self.items) - self._dropped
                if left < 2:
                    raise
                self._dropped += max(1, left // 2)

    async def _session(self, config: SessionConfig | None = None) -> CachedConversation:
        """The session of the present instructions and voice."""
        config = config or self.config
        settings = SessionSettings(
            system=self._service.system(config.instructions or None, config.tools, spoken=self._service.speaks),
            speech=self._service.speaks,
            context=self._service.settings.context,
        )
        if self._cached is None or self._cached.settings != settings:
            self._cached = None
            session = await self._service.model.run(lambda: self._service.engine.session(settings))
            self._cached = CachedConversation(session, settings)
        if config.voice is not None:
            self._cached.session.voice = config.voice
        return self._cached
