"""A session as a cache: it is made to hold a list of parts, and computes only those that it does not hold yet."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_edge.conversation.session import Session
from omni_edge.conversation.settings import ReplySettings, SessionSettings
from omni_edge.conversation.snapshot import SessionSnapshot
from omni_edge.events import AudioClip, Event, ImageFrame, Media, PcmBlock, TurnDone, VideoClip
from omni_edge.live.voice_detector import VOICE_RATE


@dataclass(frozen=True)
class UserPart:
    """A piece of the user's turn; equal to others with the same key.

    Attributes:
        key: says what it is: the text itself, or the hash of a file.
        item: what is pushed.
    """

    key: str
    item: str | Media = field(compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its sound and pictures."""
        match self.item:
            case AudioClip() | PcmBlock():
                return self.item.samples.nbytes
            case ImageFrame():
                return self.item.pixels.nbytes
            case VideoClip(sound=sound):
                return self.item.frames.nbytes + (sound.samples.nbytes if sound is not None else 0)
            case _:
                return 0


@dataclass
class LiveSound:
    """A sound that still comes.

    Attributes:
        key: that of the part that it becomes.
        pieces: float32 [n] at `VOICE_RATE` each.
    """

    key: str
    pieces: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Length so far."""
        return sum(piece.size for piece in self.pieces) / VOICE_RATE

    def part(self) -> UserPart:
        """The whole sound."""
        return UserPart(self.key, PcmBlock(np.concatenate(self.pieces), VOICE_RATE, end=True))


@dataclass(frozen=True)
class ReplyPart:
    """A whole reply, equal to others with the same text."""

    text: str


Part = UserPart | ReplyPart


@dataclass(frozen=True)
class Held:
    """A part that the session holds.

    Attributes:
        part: the part.
        before: the place in front of it.
    """

    part: Part
    before: SessionSnapshot


@dataclass
class Live:
    """A sound behind the held parts that is not over.

    Attributes:
        key: that of the part that it becomes.
        before: the place in front of it.
        pieces, samples: how much of it was pushed.
    """

    key: str
    before: SessionSnapshot
    pieces: int = 0
    samples: int = 0


class CachedConversation:
    """A session and the parts that it holds. One thread at a time, except for `cancel`.

    Attributes:
        settings: those of the session.
        session: the session; nothing else uses it.
    """

    def __init__(self, session: Session, settings: SessionSettings) -> None:
        self.session, self.settings = session, settings
        self._held: list[Held] = []
        self._cancelled = False
        self._live: Live | None = None

    def cancel(self) -> None:
        """Stops `hold` before its next part and the reply at its next step; safe from any thread."""
        self._cancelled = True
        self.session.cancel()

    def common(self, parts: Sequence[Part]) -> int:
        """The number of parts, from the first one on, that it holds already."""
        pairs = zip(self._held, parts, strict=False)
        return next((n for n, (held, part) in enumerate(pairs) if held.part != part), min(len(self._held), len(parts)))

    def hold(self, parts: Sequence[Part]) -> int:
        """Holds these parts and no others; computes what is missing.

        Returns:
            positions of the context that were there already.

        Raises:
            MediaError: a part cannot be used.
            ContextFullError: a part does not fit. In both cases the parts before it are held.
        """
        self._cancelled = False
        common = self.common(parts)
        self._close_live(parts, common)
        common = self.common(parts)
        if common < len(self._held):
            self.session.restore(self._held[common].before)
            del self._held[common:]
        reused = self.session.offset
        for part in parts[common:]:
            if self._cancelled:
                break
            before = self.session.snapshot()
            if isinstance(part, ReplyPart):
                self.session.push_reply(part.text)
            else:
                self.session.push(part.item)
            self._held.append(Held(part, before))
        return reused

    def listen(self, parts: Sequence[Part], sound: LiveSound) -> None:
        """Holds these parts, and behind them what there is of a sound; computes what is missing."""
        held = self.common(parts) == len(self._held) == len(parts)
        if self._live is None or self._live.key != sound.key or not held:
            self.hold(parts)
            self._live = Live(sound.key, self.session.snapshot())
        live = self._live
        for piece in sound.pieces[live.pieces :]:
            self.session.push(PcmBlock(piece, VOICE_RATE))
            live.pieces, live.samples = live.pieces + 1, live.samples + piece.size

    def _close_live(self, parts: Sequence[Part], common: int) -> None:
        """Makes the live sound a part where it comes next in `parts`; forgets it otherwise."""
        if self._live is None:
            return
        live, self._live = self._live, None
        whole = parts[common] if common == len(self._held) < len(parts) else None
        if isinstance(whole, UserPart) and whole.key == live.key and isinstance(whole.item, PcmBlock):
            self.session.push(PcmBlock(whole.item.samples[live.samples :], VOICE_RATE, end=True))
            self._held.append(Held(whole, live.before))
        else:
            self.session.restore(live.before)

    def reply(
        self, settings: ReplySettings, max_new_tokens: int | None, max_codec_tokens: int | None
    ) -> Generator[Event]:
        """Answers, and then holds the reply; see `Session.reply`. An abandoned reply is forgotten."""
        before = self.session.snapshot()
        whole = False
        try:
            for event in self.session.reply(
                max_new_tokens=max_new_tokens, max_codec_tokens=max_codec_tokens, settings=settings
            ):
                if isinstance(event, TurnDone) and event.finish_reason != "cancelled":
                    # A reply that a stop text ended is longer in the caches than what the client has of it.
                    whole = not settings.stop
                    if whole:
                        self._held.append(Held(ReplyPart(event.text), before))
                yield event
        finally:
            if not whole:
                self.session.restore(before)


class ConversationPool:
    """Conversations that are kept for their next turn, the latest last.

    Args:
        make: starts a session.
        most: conversations that are kept.
    """

    def __init__(self, make: Callable[[SessionSettings], Session], most: int) -> None:
        self._make, self._most = make, most
        self._kept: list[CachedConversation] = []

    def take(self, settings: SessionSettings, parts: Sequence[Part]) -> CachedConversation:
        """The conversation with these settings that holds most of `parts`; a new one where none holds any."""
        alike = [kept for kept in self._kept if kept.settings == settings]
        best = max(alike, key=lambda kept: kept.common(parts), default=None)
        if best is not None and best.common(parts):
            self._kept.remove(best)
            return best
        # Room first: the caches of a conversation are large.
        del self._kept[: max(0, len(self._kept) - self._most + 1)]
        return CachedConversation(self._make(settings), settings)

    def put_back(self, conversation: CachedConversation) -> None:
        """Keeps a conversation."""
        self._kept.append(conversation)
        del self._kept[: max(0, len(self._kept) - self._most)]
