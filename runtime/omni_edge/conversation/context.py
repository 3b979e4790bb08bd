"""The context of a conversation: what the Thinker's and the Talker's caches hold, and what waits to be prefilled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.conversation.history import History
from omni_edge.conversation.prompt import Prompt
from omni_edge.conversation.saved import SavedFile, named
from omni_edge.conversation.settings import CompleteSettings
from omni_edge.conversation.snapshot import ContextSnapshot
from omni_edge.decoders.thinker import INSIDE, ThinkerStates
from omni_edge.decoders.tmrope import Positions
from omni_edge.model import Model

_NO_IDS = np.zeros((3, 0), np.int64)


class Context:
    """The only owner of both caches.

    The Talker takes the same positions as the Thinker, but not while it speaks: the states of a reply's tokens wait
    until the next turn is prefilled.

    Attributes:
        pending: text, marks and tokens that are not in the caches yet.
        logits: float32 [vocabulary] after the last position, valid until the next prefill; None: nothing was prefilled
            since the context was empty, trimmed or loaded.
        talker: the Talker's cache; None: the conversation is text only.
        history: what prefilling parts of the context again needs.

    Args:
        model: the loaded parts.
        settings: those of the conversation; they say how large the caches are and whether there is a Talker's.
    """

    def __init__(self, model: Model, settings: CompleteSettings) -> None:
        self._model = model
        self._cache = model.thinker.cache(settings.context)
        self.talker = None
        if settings.talker_sampling is not None and model.talker is not None:
            limit = model.talker.decoder.section.max_positions
            self.talker = model.talker.state(min(settings.context + settings.talker_sampling.max_new_tokens, limit))
        self.pending = Prompt(model.thinker.embed, model.tokenizer, model.manifest)
        self.history = History(settings.context)
        self.reset()

    def reset(self) -> None:
        """Forgets everything; the memory stays."""
        self._cache.reset()
        if self.talker is not None:
            self.talker.reset()
        self.pending.reset()
        self.history.trim(0)
        self.logits: NDArray[np.float32] | None = None
        # Of every position in the Thinker's cache: its token, the id that would follow it, the highest id up to it.
        self._tokens: list[int] = []
        self._next_ids: list[int] = []
        self._highest_ids: list[int] = []
        # States of the positions that the Talker has still to take.
        self._states: list[ThinkerStates] = []

    # -- what it holds -----------------------------------------------------------------------------------------

    @property
    def prefilled(self) -> int:
        """Positions in the Thinker's cache."""
        return self._cache.offset

    @property
    def offset(self) -> int:
        """Positions in use: those in the cache and those that wait."""
        return self._cache.offset + self.pending.size

    @property
    def capacity(self) -> int:
        """Positions that it can hold."""
        return self._cache.capacity

    @property
    def nbytes(self) -> int:
        """Bytes reserved; resident are those of the positions in use."""
        return self._cache.nbytes + (self.talker.nbytes if self.talker is not None else 0)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """int64 [prefilled]; the tokens in the cache, placeholders in the place of media."""
        return np.array(self._tokens, np.int64)

    @property
    def positions(self) -> Positions:
        """A copy of the ids that come next."""
        return replace(self.pending.positions)

    def reserve(self, count: int) -> None:
        """Checks that `count` more positions fit behind those that wait.

        Raises:
            ContextFullError: they do not.
        """
        self._model.thinker.decoder.reserve(self.pending.size + count, self._cache)

    # -- going on ----------------------------------------------------------------------------------------------

    def append(self, token: int) -> None:
        """Adds a token that was drawn from `logits`; it waits for the next prefill."""
        self.pending.decoded(token)

    def prefill(self, *, speaking: bool = False, limit: int | None = None) -> ThinkerStates | None:
        """Puts everything that waits into the caches.

        Args:
            limit: only so many positions; None: all.
            speaking: the Talker speaks the reply that is being decoded: it takes the new positions later.

        Returns:
            the new positions as the Talker takes them; None: nothing waited.

        Raises:
            ContextFullError: they do not fit.
            ResourceError: not enough memory.
        """
        blocks = self.pending.take(limit)
        if not blocks:
            return None
        before = self._cache.offset
        states, self.logits = self._model.thinker.step(blocks, self._cache)
        self.history.add(before, blocks)
        highest = self._highest_ids[-1] if self._highest_ids else INSIDE
        for block in blocks:
            self._tokens += block.tokens.tolist()
            self._next_ids += block.next_ids.tolist()
            for largest in block.positions.max(axis=0).tolist():
                highest = max(highest, largest)
                self._highest_ids.append(highest)
        if self.talker is not None:
            self._states.append(states)
            if not speaking:
                self._prefill_talker()
        return states

    def _prefill_talker(self) -> None:
        talker, state = self._model.talker, self.talker
        assert talker is not None
        assert state is not None
        states = ThinkerStates.joined(self._states)
        talker.prefill(states, state)
        self._states = []

    # -- going back --------------------------------------------------------------------------------------------

    def trim(self, to: int) -> None:
        """Forgets every position from `to` on, and everything that waits.

        The conversation then continues as one that never had more: ids, the tokens that a repetition penalty counts,
        and the Talker's part go back as well. `logits` come with the next prefill.

        Args:
            to: positions that stay. Valid are 0 and every position up to `prefilled` behind a text token, a mark or an
                audio token, which includes both ends of a picture and of a video; not a position inside them.

        Raises:
            ValueError: `to` lies outside, or inside a picture or a video.
        """
        if not self.can_trim(to):
            raise ValueError(f"a context of {self.prefilled} positions cannot be cut at {to}")
        positions = Positions(self._next_ids[to - 1], self._highest_ids[to - 1]) if to else Positions()
        self._cut(to)
        self.pending.reset(positions)
        self.logits = None

    def can_trim(self, to: int) -> bool:
        """Whether `trim` takes this offset."""
        return 0 <= to <= self.prefilled and (to == 0 or self._next_ids[to - 1] != INSIDE)

    def cut_out(self, start: int, stop: int) -> int:
        """Forgets the positions from `start` to `stop`; those behind them wait to be prefilled again.

        Their ids move, as if what was cut out had never been there. Nothing may wait.

        Args:
            start, stop: places behind a text token, a mark or an audio token. `history.kept_from` is at most `stop`.

        Returns:
            by how much the ids of what follows were lowered.
        """
        assert self.pending.size == 0
        assert self.history.kept_from <= stop
        base = self._next_ids[start - 1] if start else 0
        highest = self._highest_ids[start - 1] if start else INSIDE
        moved = self._next_ids[stop - 1] - base
        tokens, next_ids = self.tokens[stop:], np.array(self._next_ids[stop:], np.int64)
        blocks = self.history.blocks(stop, tokens, np.where(next_ids == INSIDE, INSIDE, next_ids - moved), moved)
        blocks = [
            block if block.media else replace(block, embeds=self._model.thinker.embed(block.tokens)) for block in blocks
        ]
        highest = max([highest, *(int(block.positions.max()) for block in blocks)])
        next_id = self.pending.positions.next - moved
        self._cut(start)
        self.history.keep()
        self.logits = None
        self.pending.refill(blocks, Positions(next_id, highest))
        return moved

    @contextmanager
    def unchanged_on_error(self) -> Iterator[None]:
        """Within it, an error leaves the context as it was at the beginning."""
        before = self.snapshot()
        try:
            yield
        except BaseException:
            self.restore(before)
            raise

    def snapshot(self) -> ContextSnapshot:
        """The present place, to which `restore` goes back."""
        return ContextSnapshot(self.prefilled, self.pending.copy())

    def place(self, to: int) -> ContextSnapshot:
        """The place at which the context held its first `to` positions and nothing waited; `can_trim` holds for it."""
        pending = self.pending.copy()
        pending.reset(Positions(self._next_ids[to - 1], self._highest_ids[to - 1]) if to else Positions())
        return ContextSnapshot(to, pending)

    def restore(self, snapshot: ContextSnapshot) -> None:
        """Goes back to a snapshot: forgets what came behind it, and waits for what waited then.

        Nothing in front of the snapshot may have been cut since.
        """
        assert self.prefilled >= snapshot.prefilled
        if self.prefilled != snapshot.prefilled:
            self.logits = None
        self._cut(snapshot.prefilled)
        self.pending = snapshot.pending.copy()

    def _cut(self, to: int) -> None:
        self._cache.trim(min(to, self._cache.offset))
        del self._tokens[to:], self._next_ids[to:], self._highest_ids[to:]
        self.history.trim(to)
        if self.talker is not None:
            self.talker.trim(to)
            kept, room = [], to - self.talker.prefilled
            for states in self._states:
                kept.append(states.first(max(0, room)))
                room -= len(kept[-1])
            self._states = [states for states in kept if len(states)]

    # -- into a file and back ----------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file has to hold beside `pending.text` and the next ids; the caches' used parts are views."""
        hidden = self._model.manifest.thinker.hidden_size
        waiting = ThinkerStates.joined(self._states or [ThinkerStates(np.zeros((0, hidden), np.float32), _NO_IDS)])
        tokens, ids = self.pending.waiting()
        talker = self.talker.cache.views(self.talker.prefilled) if self.talker is not None else {}
        return {
            "tokens": self.tokens,
            "next_ids": np.array(self._next_ids, np.int64),
            "highest_ids": np.array(self._highest_ids, np.int64),
            "pending.tokens": tokens,
            "pending.ids": ids,
            "states": waiting.states,
            "states.ids": waiting.positions,
            **dict(named("thinker", self._cache.views(self.prefilled))),
            **dict(named("talker", talker)),
        }

    def load(self, file: SavedFile) -> None:
        """Takes over a saved conversation; only the used parts of the caches are read.

        Raises:
            ConversationError: the file does not fit this model, or holds values that no conversation has.
        """
        self.reset()
        manifest, header = self._model.manifest, file.header
        vocabulary, limit = manifest.thinker.vocab_size, np.iinfo(np.int32).max
        count, waiting, taken = file.count("tokens"), file.count("pending.tokens"), 0
        if self.talker is not None:
            taken = file.count("talker.cos")
        delayed = count - taken if self.talker is not None else 0
        if count > self.capacity or delayed < 0:
            raise file.unusable(f"it has {count} positions in a context of {self.capacity}")
        if not (0 <= header.next_id < limit and INSIDE <= header.highest_id < limit):
            raise file.unusable("its position ids are out of range")
        self._tokens = file.integers("tokens", (count,), 0, vocabulary).tolist()
        self._next_ids = file.integers("next_ids", (count,), INSIDE, limit).tolist()
        self._highest_ids = file.integers("highest_ids", (count,), 0, limit).tolist()
        self.history.kept_from = count
        for name, view in named("thinker", self._cache.views(count)):
            file.read(name, view)
        self._cache.offset = count
        if self.talker is not None:
            for name, view in named("talker", self.talker.cache.views(taken)):
                file.read(name, view)
            self.talker.prefilled = self.talker.cache.offset = taken
        states = np.zeros((delayed, manifest.thinker.hidden_size), np.float32)
        file.read("states", states)
        ids = file.integers("states.ids", (3, delayed), 0, limit)
        self._states = [ThinkerStates(states, ids)] if delayed else []
        tokens = file.integers("pending.tokens", (waiting,), 0, vocabulary)
        ids = file.integers("pending.ids", (3, waiting), 0, limit)
        self.pending.restore(tokens, ids, header.text, Positions(header.next_id, header.highest_id))
