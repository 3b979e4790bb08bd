"""Places in a conversation to go back to, for replies that are computed before it is certain that they are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from omni_edge.conversation.live_sound import LiveSound
from omni_edge.conversation.prompt import Prompt


@dataclass(frozen=True)
class ContextSnapshot:
    """A place in a context.

    Attributes:
        prefilled: positions in the Thinker's cache.
        pending: what waited.
    """

    prefilled: int
    pending: Prompt


@dataclass(frozen=True)
class SessionSnapshot:
    """A place in a conversation; see `Session.snapshot`.

    Attributes:
        context: that of the context.
        reply_starts, reply_stops: offsets of the replies.
        live: the live sound that was open, or None.
        turn_open: whether the user's turn was open.
    """

    context: ContextSnapshot
    reply_starts: tuple[int, ...]
    reply_stops: tuple[int, ...]
    live: LiveSound | None
    turn_open: bool
