"""A conversation: takes what the user says and shows, and answers.

Whatever is pushed is encoded and prefilled as soon as it is complete; what an earlier turn prefilled is never prefilled
again. Offline is streaming with fresh state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from omni_edge.conversation import saved
from omni_edge.conversation.context import Context
from omni_edge.conversation.eviction import Eviction, first_turn_kept
from omni_edge.conversation.reply import Reply
from omni_edge.conversation.reply_start import ReplyStart
from omni_edge.conversation.settings import ReplySettings, SessionSettings, check_voice
from omni_edge.conversation.snapshot import SessionSnapshot
from omni_edge.conversation.turns import Turns
from omni_edge.conversation.user_turn import UserTurn
from omni_edge.errors import ContextFullError, UsageError
from omni_edge.events import Event, Media
from omni_edge.model import Model


class Session:
    """A conversation on a model; made by `OmniEdge.session`. One thread at a time, except for `cancel`.

    An error leaves the conversation as it was before the call; of a live sound, the blocks before it stay.
    """

    def __init__(self, model: Model, settings: SessionSettings) -> None:
        manifest = model.manifest
        self._model = model
        self._settings = chosen = settings.complete(manifest)
        self._voice = chosen.voice
        self._context = Context(model, chosen)
        self._cancelled = False
        self.reset()

    @classmethod
    def resume(cls, model: Model, path: Path | str) -> Session:
        """The conversation in a file that `save` wrote; see `OmniEdge.resume`."""
        file = saved.SavedFile(Path(path), model.bundle.manifest_sha256())
        header = file.header
        if len(header.reply_starts) - len(header.reply_stops) != (bool(header.reply_starts) and not header.turn_open):
            raise file.unusable("its turns do not follow each other")
        if header.replies_evicted < 0:
            raise file.unusable("it counts fewer than no replies")
        session = cls(model, header.settings)
        session._context.load(file)
        turns = session._turns
        turns.reply_starts, turns.reply_stops = list(header.reply_starts), list(header.reply_stops)
        turns.open, turns.evicted = header.turn_open, header.replies_evicted
        return session

    # -- what the caller sees ----------------------------------------------------------------------------------

    @property
    def camera_fps(self) -> int:
        """Frames of a live video that the model sees in a second."""
        return self._settings.camera_fps

    @property
    def voice(self) -> str:
        """The speaker of the next reply; one of `OmniEdge.voices`."""
        return self._voice

    @voice.setter
    def voice(self, name: str) -> None:
        self._voice = check_voice(name, self._model.manifest)

    @property
    def speech(self) -> bool:
        """Whether replies are spoken."""
        return self._context.talker is not None

    @property
    def turn_open(self) -> bool:
        """Whether the user's turn holds anything that `reply` would answer."""
        return self._turns.open

    @property
    def offset(self) -> int:
        """Positions of the context in use, those that wait to be prefilled included."""
        return self._context.offset

    @property
    def capacity(self) -> int:
        """Positions that the conversation may use."""
        return self._context.capacity

    @property
    def nbytes(self) -> int:
        """Bytes reserved for this conversation; resident is the part in use."""
        return self._context.nbytes

    def reset(self) -> None:
        """Starts the conversation anew, with the same settings; the random streams start again too."""
        self._context.reset()
        self._turns = Turns()
        self._user = UserTurn(self._model, self._settings, self._context, self._turns)
        self._reply: Reply | None = None
        # The end of what `refill` prefills.
        self._refill_to = 0
        # Whether the system prompt waits or is prefilled.
        self._opened = not self._settings.system

    def end_sound(self) -> None:
        """Ends the live sound, if one is open. What remains of it is encoded now and prefilled with what follows.

        Raises:
            MediaError: the whole sound is too short for one audio token.
            ContextFullError: it does not fit.
        """
        self._user.end_sound(wait=True)

    def cancel(self) -> None:
        """Stops the reply in progress at its next step; safe from any thread.

        The conversation keeps the text written so far; the rest of the speech is dropped.
        """
        self._cancelled = True

    def push(self, item: str | Media) -> None:
        """Adds to the user's turn; sound and pictures are encoded and prefilled before it returns.

        Args:
            item: text, a whole sound, picture or video, or the next piece of a live sound (the last one with
                `end=True`; anything else that is pushed, and `reply`, end it too). Camera frames between the pieces
                make it a live video; frames without a sound are dropped.

        Raises:
            MediaError: it cannot be used.
            ContextFullError: it does not fit.
        """
        self._reply = None
        self._user.push(item)

    def reply(
        self,
        *,
        max_new_tokens: int | None = None,
        max_codec_tokens: int | None = None,
        settings: ReplySettings | None = None,
    ) -> Iterator[Event]:
        """Ends the user's turn and answers.

        Args:
            max_new_tokens: text tokens at most; None: the bundle's default.
            max_codec_tokens: codec tokens at most (50 for each second of speech); None: the bundle's default.
            settings: what is different in this reply; None: nothing.

        Returns:
            an iterator over `TextDelta`, `AudioChunk` and finally `TurnDone`. Abandoning it ends the reply where it
            stands.

        Raises:
            UsageError: nothing was pushed.
            ContextFullError: the turn's closing marks do not fit.
        """
        began = time.perf_counter()
        self._cancelled = False
        self._reply = None
        self.end_sound()
        if not self._turns.open:
            raise UsageError("There is nothing to answer: push text, sound or a picture first.")
        with self._context.unchanged_on_error():
            self._context.pending.end_turn()
            self._context.pending.assistant()
            self._context.prefill()
        prefilled = time.perf_counter() - began
        self._turns.open = False
        self._turns.reply_starts.append(self._context.prefilled)
        chosen = settings or ReplySettings()
        start = ReplyStart(self._model, self._settings, chosen, self._context, self._voice, self._turns.reply_number)
        reply = self._reply = start.reply(began, prefilled, max_new_tokens, max_codec_tokens)
        # An iterator that is still held when the conversation continues must not write into it any more.
        return reply.events(lambda: self._cancelled or self._reply is not reply)

    def push_reply(self, text: str) -> None:
        """Adds a reply that was given elsewhere, as in a conversation that another program kept; nothing is spoken.

        Args:
            text: all of it.

        Raises:
            ContextFullError: it does not fit.
        """
        self._reply = None
        self._user.end_sound()
        self._user.reserve(len(self._model.tokenizer.encode(text)))
        turns, stops = self._turns, list(self._turns.reply_stops)
        with self._context.unchanged_on_error():
            pending = self._context.pending
            if turns.open:
                pending.end_turn()
            elif turns.reply_starts:
                stops.append(self._context.offset)
                pending.end_turn()
            elif not self._context.offset and self._settings.system:
                pending.system(self._settings.system)
            pending.assistant()
            self._context.prefill()
            start = self._context.prefilled
            pending.write(text)
            self._context.prefill()
        turns.reply_starts, turns.reply_stops, turns.open = [*turns.reply_starts, start], stops, False

    def trim(self, offset: int) -> None:
        """Cuts a reply short and forgets everything behind it; the next turn follows as if the reply had ended there.

        Args:
            offset: positions that stay: within a reply or at its ends. `TurnDone.prompt_tokens + n` keeps the first n
                tokens of that reply.

        Raises:
            UsageError: the offset is not within a reply.
        """
        spans = self._turns.replies(self.offset)
        reply = next((number for number, (start, stop) in enumerate(spans, 1) if start <= offset <= stop), None)
        if reply is None:
            raise UsageError(
                f"A conversation can be cut within its replies, not at {offset}. They lie at "
                f"{', '.join(f'{start} to {stop}' for start, stop in spans) or '(none yet)'}."
            )
        self._reply = None
        if offset > self._context.prefilled:
            self._context.prefill()
        self._context.trim(offset)
        self._user.live, self._turns.open, self._refill_to = None, False, 0
        del self._turns.reply_starts[reply:], self._turns.reply_stops[reply - 1 :]

    def snapshot(self) -> SessionSnapshot:
        """The present place, in the middle of a live sound as well; `restore` goes back to it.

        It copies what waits and what the live sound holds (2 s at most), not the caches.
        """
        starts, stops = tuple(self._turns.reply_starts), tuple(self._turns.reply_stops)
        live = self._user.live.copy() if self._user.live is not None else None
        return SessionSnapshot(self._context.snapshot(), starts, stops, live, self._turns.open)

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Goes back to a place of this conversation: what was pushed and replied since then is forgotten.

        The conversation then continues, token for token, as one in which it never happened.

        Args:
            snapshot: taken since the conversation began, was reset or was last cut in front of it.

        Raises:
            UsageError: the conversation was cut in front of it.
        """
        if self._context.prefilled < snapshot.context.prefilled:
            raise UsageError("This place was cut from the conversation. Restore one that the conversation still has.")
        self._reply = None
        self._context.restore(snapshot.context)
        self._turns.reply_starts, self._turns.reply_stops = list(snapshot.reply_starts), list(snapshot.reply_stops)
        self._user.live = snapshot.live.copy() if snapshot.live is not None else None
        self._turns.open = snapshot.turn_open

    # -- room for more -----------------------------------------------------------------------------------------

    def keep_media(self) -> None:
        """From now on keeps the embeds of sound and pictures, so that turns which hold some can stay in `evict`."""
        self._context.history.keeps_media = True

    @property
    def refilling(self) -> bool:
        """Whether `refill` has something to compute."""
        if not self._opened and not self._context.offset:
            return True
        return self._refill_to > self._context.prefilled and self._context.pending.holds_blocks

    @property
    def live_positions(self) -> int:
        """Positions that 2 s of the live sound that is open take, and what they show."""
        return self._user.live_positions

    def evict(self, keep: int, last: int) -> Eviction | None:
        """The oldest turns leave, whole; the system prompt and a user's turn that is open stay.

        The conversation continues as one that never had them. The turns that stay wait to be prefilled again: at once
        with the next push or reply, or before that in parts, by `refill`.

        Args:
            keep: positions that may be in use afterwards.
            last: positions that may be in use where the last turn alone stays.

        Returns:
            what left; None: there is no turn that may leave.
        """
        context = self._context
        context.prefill()
        end, starts = context.prefilled, self._turn_starts()
        if not starts:
            return None
        kept_from = context.history.kept_from
        turn = first_turn_kept(starts, end, keep, last)
        while turn < len(starts) and starts[turn] < kept_from:
            turn += 1
        if self._turns.open:
            turn = min(turn, len(starts) - 1)
            if turn == 0 or starts[turn] < kept_from:
                return None
        start, stop = starts[0], starts[turn] if turn < len(starts) else end
        begin = context.place(start)
        ids = context.cut_out(start, stop)
        eviction, turns = Eviction(turn, start, stop, ids, begin), self._turns
        turns.reply_starts = [eviction.offset(each) for each in turns.reply_starts[turn:]]
        turns.reply_stops = [eviction.offset(each) for each in turns.reply_stops[turn:]]
        turns.evicted += turn
        self._refill_to = self._context.offset
        video = self._user.live.video if self._user.live is not None else None
        if video is not None and video.start is not None:
            video.start -= ids
        return eviction

    def refill(self, limit: int) -> None:
        """Prefills the next positions, `limit` at most, of what is known before the user's turn.

        That is the system prompt of a new conversation, and the turns that stayed in `evict`.
        """
        if not self._opened and not self._context.offset:
            self._open()
        self._context.prefill(limit=min(limit, self._refill_to - self._context.prefilled))

    def _open(self) -> None:
        """The system prompt waits to be prefilled; one that does not fit is refused with the user's turn."""
        self._opened = True
        with suppress(ContextFullError):
            self._user.reserve(0)
            pending = self._context.pending
            pending.system(self._settings.system)
            # As blocks, because text waits for what is written behind it.
            pending.refill(pending.take(), pending.positions)
            self._refill_to = self._context.offset

    def _turn_starts(self) -> list[int]:
        """Where each turn begins; nothing waits."""
        tokens = self._context.tokens
        marks = np.flatnonzero(tokens == self._model.tokenizer.turn_start).tolist()
        if self._settings.system:
            del marks[:1]
        behind = [0, *self._turns.reply_stops]
        return [next(mark for mark in marks if mark >= stop) for stop in behind] if marks else []

    def save(self, path: Path | str) -> None:
        """Puts the conversation away in a file, whole or not at all; `OmniEdge.resume` takes it up again.

        A user's turn may be open; of a reply in progress the file holds the tokens so far. The size is that of the
        positions in use, see `omni-edge info`.

        Raises:
            UsageError: a live sound is open, or the file cannot be written.
            ResourceError: the disk is full.
        """
        if self._user.live is not None and self._user.live.state is not None:
            raise UsageError("A live sound is open. Complete it (end=True) before the conversation is saved.")
        pending = self._context.pending
        if pending.holds_media:
            self._context.prefill()
        header = saved.Header(
            bundle=self._model.bundle.manifest_sha256(),
            settings=self._settings.reusable(self._voice),
            reply_starts=tuple(self._turns.reply_starts),
            reply_stops=tuple(self._turns.reply_stops),
            turn_open=self._turns.open,
            text=pending.text,
            next_id=pending.positions.next,
            highest_id=pending.positions.highest,
            replies_evicted=self._turns.evicted,
        )
        saved.write(Path(path), header, self._context.arrays())
