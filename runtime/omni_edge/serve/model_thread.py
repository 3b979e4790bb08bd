"""The one thread on which the model runs, and the queue in front of it.

One generation is active; others wait in the order in which they came. Between its steps the thread takes short work of
other clients, such as prefilling what somebody says meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from math import ceil
from typing import Any, TypeVar

from omni_edge.serve.faults import RequestError

T = TypeVar("T")

# Before the first generation has ended.
_FIRST_GUESS_SECONDS = 2.0
_LONGEST_RETRY_SECONDS = 120
_END: Any = object()


class ModelThread:
    """Runs everything that computes.

    Args:
        waiting: generations that may wait; one more is refused.
    """

    def __init__(self, waiting: int) -> None:
        self._limit = waiting
        self._thread = ThreadPoolExecutor(1, "omni-edge-model")
        self._active = asyncio.Lock()
        self._seconds = _FIRST_GUESS_SECONDS
        self.waiting = 0

    @property
    def busy(self) -> bool:
        """Whether a generation is active."""
        return self._active.locked()

    def close(self) -> None:
        """Ends the thread when its present work is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. If the caller is cancelled, this returns only once `work` has ended or was dropped."""
        submitted = self._thread.submit(work)
        result = asyncio.wrap_future(submitted)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not submitted.cancel():
                await _settled(result)
            raise

    async def run_until_cancelled(self, work: Callable[[], T], cancel: Callable[[], None]) -> T:
        """As `run`; `cancel` makes `work` end early where the caller is cancelled. It is called on another thread."""
        running = asyncio.ensure_future(self.run(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            cancel()
            await _settled(running)
            raise

    async def events(self, steps: Generator[T], cancel: Callable[[], None]) -> AsyncGenerator[T]:
        """What `steps` yields, each step on the thread, where it is closed as well. Use it within `aclosing`.

        Args:
            steps: computes.
            cancel: makes the step in progress end early; called on another thread where the caller is cancelled.
        """
        try:
            while (event := await self.run_until_cancelled(lambda: next(steps, _END), cancel)) is not _END:
                yield event
        finally:
            await _settled(asyncio.ensure_future(self.run(steps.close)))

    @asynccontextmanager
    async def generation(self) -> AsyncIterator[None]:
        """Within it, the caller's generation is the active one.

        Raises:
            RequestError: 429, the queue is full.
        """
        if self._active.locked() and self.waiting >= self._limit:
            retry = min(_LONGEST_RETRY_SECONDS, ceil(self._seconds * (self.waiting + 1)))
            raise RequestError(
                f"{self.waiting} generations wait already. Try again in {retry} s.",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code="server_busy",
                retry_after=retry,
            )
        self.waiting += 1
        try:
            await self._active.acquire()
        finally:
            self.waiting -= 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.3 * (time.monotonic() - began - self._seconds)
            self._active.release()


async def _settled(future: asyncio.Future[Any]) -> None:
    """Waits until `future` is done, however often the caller is cancelled meanwhile; its outcome is dropped."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # else the loop reports that nobody asked for it
