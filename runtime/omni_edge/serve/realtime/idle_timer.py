"""`idle_timeout_ms`: when the user has said nothing for some time after a reply was played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

# What happens in between ends the wait.
_RESETS = frozenset({"response.created", "input_audio_buffer.speech_started", "session.updated"})


class IdleTimer:
    """Watches the events of one client.

    Args:
        timed_out: called when the time is over.
    """

    def __init__(self, timed_out: Callable[[], None]) -> None:
        self._timed_out = timed_out
        self._handle: asyncio.TimerHandle | None = None
        self._speaking_since: float | None = None

    def watch(self, event: dict[str, Any], timeout: float | None, speech: Callable[[], float]) -> None:
        """Takes an event that is sent to the client.

        Args:
            event: the event.
            timeout: seconds after the reply was played; None: the user has all the time.
            speech: gives the length of the last reply's speech, in seconds.
        """
        kind, now = event["type"], asyncio.get_running_loop().time()
        if kind in _RESETS:
            self.stop()
        if kind == "response.created":
            self._speaking_since = None
        elif kind == "response.output_audio.delta" and self._speaking_since is None:
            self._speaking_since = now
        elif kind == "response.done" and timeout is not None and event["response"]["status"] == "completed":
            left = 0.0 if self._speaking_since is None else max(0.0, self._speaking_since + speech() - now)
            self._handle = asyncio.get_running_loop().call_later(left + timeout, self._timed_out)

    def stop(self) -> None:
        """Ends the wait."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
