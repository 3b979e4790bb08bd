"""Texts that end a reply. What may be the beginning of one is held back until it is certain."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes a reply's text on, up to the first of some texts.

    Args:
        stops: the texts; none may be empty.

    Attributes:
        text: everything that was passed on.
        found: whether one of the texts was met; nothing is passed on from then on.
        behind: what came behind it in the same piece.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.text = ""
        self.found = False
        self.behind = ""

    @property
    def holds(self) -> bool:
        """Whether the end of the text so far may begin a stop."""
        return bool(self._held)

    def push(self, piece: str) -> str:
        """Takes the next piece; returns what is certain to stand before a stop."""
        if self.found:
            return ""
        held = self._held + piece
        places = [place for place in (held.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.found = True
            first = min(places)
            length = max(len(stop) for stop in self._stops if held.startswith(stop, first))
            self.behind = held[first + length :]
            return self._pass(held[:first], "")
        kept = max((self._overlap(held, stop) for stop in self._stops), default=0)
        return self._pass(held[: len(held) - kept], held[len(held) - kept :])

    def close(self, rest: str) -> str:
        """Takes the last piece; returns everything that was held back."""
        passed = self.push(rest)
        return passed + self._pass(self._held, "")

    def _pass(self, text: str, held: str) -> str:
        self._held = held
        self.text += text
        return text

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Characters at the end of `text` that begin `stop`."""
        return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
