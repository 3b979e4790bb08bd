"""What all handlers share: the engine, the model's thread, decoders of files, and one way to get an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.conversation.settings import ReplySettings, SessionSettings
from omni_edge.engine import OmniEdge
from omni_edge.errors import BundleError
from omni_edge.events import Event, TurnDone
from omni_edge.live.sentence_detector import SentenceDetector
from omni_edge.live.voice_detector import VoiceDetector
from omni_edge.serve.cached_conversation import CachedConversation, ConversationPool, Part
from omni_edge.serve.data_uri import Attachment
from omni_edge.serve.faults import RequestError
from omni_edge.serve.grammar import GrammarMask, Grammars
from omni_edge.serve.metrics import ServerMetrics
from omni_edge.serve.model_thread import ModelThread
from omni_edge.serve.settings import ServeSettings
from omni_edge.serve.tools import ToolSet

T = TypeVar("T")

# Files are decoded, and speech is detected, beside the model.
_HELPERS = 2
# The name of the built-in model, whose folder has another.
_BUILT_IN = "omni-nano"


@dataclass(frozen=True)
class Ask:
    """What one answer takes.

    Attributes:
        session: settings of the conversation.
        parts: the conversation so far; the last one is the user's.
        reply: what is different in this reply.
        max_new_tokens: text tokens at most; None: the bundle's default.
        max_codec_tokens: codec tokens at most; None: the bundle's default.
        keep: whether the conversation is kept for its next turn.
    """

    session: SessionSettings
    parts: Sequence[Part]
    reply: ReplySettings = field(default_factory=ReplySettings)
    max_new_tokens: int | None = None
    max_codec_tokens: int | None = None
    keep: bool = False


@dataclass(frozen=True)
class Prefilled:
    """The question is in the caches; `cached` positions were there before."""

    cached: int


class Service:
    """One engine and its clients. Belongs to one event loop.

    Args:
        engine: the loaded bundle.
        settings: the server's.

    Attributes:
        engine: the loaded bundle.
        settings: the server's.
        model: the thread on which it runs.
        metrics: counters.
        name: the model's name, that of the bundle's folder.
        realtime_sessions: open Realtime sessions.
        sentence_detector: judges whether a sentence is complete; None: nothing does.

    Raises:
        UsageError: `ServeSettings.smart_turn` is missing or another model.
    """

    def __init__(self, engine: OmniEdge, settings: ServeSettings) -> None:
        self.engine, self.settings = engine, settings
        self.model = ModelThread(settings.limits.waiting)
        self.metrics = ServerMetrics()
        self.realtime_sessions = 0
        self.name = _name(engine.model.bundle.path.resolve())
        self._voice_detector: VoiceDetector | None = None
        self.sentence_detector = None if settings.smart_turn is None else SentenceDetector(settings.smart_turn)
        self._grammars: Grammars | None = None
        self._helpers = ThreadPoolExecutor(_HELPERS, "omni-edge-helper")
        self._conversations = ConversationPool(engine.session, settings.limits.kept)

    @property
    def speaks(self) -> bool:
        """Whether the bundle speaks."""
        return self.engine.manifest.token2wav is not None

    def voice_detector(self) -> VoiceDetector:
        """Tells speech from other sound; loaded by the first call.

        Raises:
            UsageError: it is not installed.
        """
        if self._voice_detector is None:
            self._voice_detector = VoiceDetector()
        return self._voice_detector

    async def mask(self, schema: dict[str, Any] | None, tools: ToolSet) -> GrammarMask | None:
        """The tokens that a reply may have; None: all. The first mask takes about a second.

        Args:
            schema: JSON schema of the reply; None: it is free.
            tools: functions that it may call.

        Raises:
            RequestError: llguidance is not installed, or a schema cannot be used.
        """
        if schema is None and not tools.required:
            return None

        def made() -> GrammarMask:
            if self._grammars is None:
                self._grammars = Grammars(self.engine.model.bundle)
            return self._grammars.mask(schema, tools)

        return await self.help(made)

    def system(self, given: str | None, tools: ToolSet, *, spoken: bool) -> str | None:
        """A system prompt for the model; None: its default one.

        Args:
            given: the client's; None: none.
            tools: functions that the model may call.
            spoken: whether it speaks; the Talker was trained behind its own prompt, which then comes first.
        """
        text = self.engine.manifest.text
        if given is None and not tools.tools:
            return None
        if spoken:
            system = text.speech_system if given is None else f"{text.speech_system}\n{given}"
        else:
            system = text.default_system if given is None else given
        return tools.behind(system)

    def close(self) -> None:
        """Ends the threads."""
        self.model.close()
        self._helpers.shutdown(wait=True, cancel_futures=True)

    async def help(self, work: Callable[[], T]) -> T:
        """The result of `work`, computed beside the model."""
        return await asyncio.get_running_loop().run_in_executor(self._helpers, work)

    async def decoded(self, parts: Sequence[Part | Attachment]) -> list[Part]:
        """The same parts with their files decoded.

        Raises:
            MediaError: a file cannot be used.
            RequestError: they are too large together.
        """
        vision, limits = self.engine.manifest.vision, self.settings.limits
        decoded: list[Part] = []
        size = 0
        for part in parts:
            if isinstance(part, Attachment):
                ready = await self.help(partial(part.decode, vision, limits))
                size += ready.nbytes
                if size > limits.decoded:
                    raise RequestError(
                        f"Its sounds and pictures take more than {limits.decoded >> 20} MiB. Send fewer of them.",
                        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        code="request_too_large",
                    )
                decoded.append(ready)
            else:
                decoded.append(part)
        return decoded

    async def answer(self, ask: Ask) -> AsyncGenerator[Prefilled | Event]:
        """`Prefilled`, then the events of the reply. Waits for its turn; use it within `aclosing`.

        Raises:
            RequestError: the queue is full.
            OmniEdgeError: what a session raises.
        """
        async with self.model.generation():
            conversation = await self.model.run(lambda: self._take(ask))
            try:
                cached = await self.model.run_until_cancelled(lambda: conversation.hold(ask.parts), conversation.cancel)
                yield Prefilled(cached)
                steps = conversation.reply(ask.reply, ask.max_new_tokens, ask.max_codec_tokens)
                async with aclosing(self.model.events(steps, conversation.cancel)) as events:
                    async for event in events:
                        if isinstance(event, TurnDone):
                            self.metrics.reply(event, cached)
                        yield event
            finally:
                if ask.keep:
                    self._conversations.put_back(conversation)

    def _take(self, ask: Ask) -> CachedConversation:
        if not ask.keep:
            return CachedConversation(self.engine.session(ask.session), ask.session)
        conversation = self._conversations.take(ask.session, ask.parts)
        if ask.session.voice is not None:
            conversation.session.voice = ask.session.voice
        return conversation


def _name(folder: Path) -> str:
    with suppress(BundleError):
        if folder == shipped_bundle().resolve():
            return _BUILT_IN
    return folder.name
