"""The turns of a recorded session, and its transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Turn:
    """A turn of the user and the reply; times on the session's clock (s).

    Attributes:
        words: what the user said.
        began, ended: the speech.
        decided: when the turn was over.
        first_sound: when the reply began to be played; None: there was none.
        reply: its words; of one that was interrupted, what was heard.
        interrupted: when it stopped; None: it was complete.
    """

    words: str
    began: float
    ended: float
    decided: float | None = None
    first_sound: float | None = None
    reply: str = ""
    interrupted: float | None = None

    @property
    def wait(self) -> float | None:
        """From the last sample of the speech to the first sound of the reply (s)."""
        return None if self.first_sound is None else self.first_sound - self.ended


def transcript(turns: Sequence[Turn]) -> str:
    """One line for each side of a turn, with the time at which it began."""
    lines = []
    for turn in turns:
        lines.append(f"{turn.began:6.2f} s  user: {turn.words}")
        if turn.first_sound is not None:
            ending = f" [interrupted at {turn.interrupted:.2f} s]" if turn.interrupted is not None else ""
            lines.append(f"{turn.first_sound:6.2f} s  reply: {turn.reply.strip()}{ending}")
    return "\n".join([*lines, ""])
