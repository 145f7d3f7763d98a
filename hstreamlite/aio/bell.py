"""How the log wakes an event loop, and how what blocks stays out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

from hstreamlite._native import ffi, lib
from hstreamlite.engine import Engine
from hstreamlite.errors import HStreamError, StoreClosed

T = TypeVar("T")


class Bell:
    """Turns what the log writes to a descriptor into futures: of tickets, and of any change."""

    def __init__(self) -> None:
        self._ends = ffi.new("int32_t[2]")
        result = lib.hsl_notify_open(self._ends)
        if result < 0:
            raise OSError(-result, "no descriptor to wake the event loop with")
        self.fd, self.log_fd = int(self._ends[0]), int(self._ends[1])
        self._tickets: list[tuple[int, int, asyncio.Future[None]]] = []
        self._changes: list[asyncio.Future[None]] = []
        self._number = count()
        self._wanted = 0
        self._kicking = False
        self._engine: Engine | None = None
        self.loop = asyncio.get_running_loop()

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        self.loop.add_reader(self.fd, self._ring)

    def _ring(self) -> None:
        lib.hsl_notify_drain(self.fd)
        engine = self._engine
        assert engine is not None
        durable = engine.journal.durable()
        tickets = self._tickets
        while tickets and tickets[0][0] <= durable:
            future = heappop(tickets)[2]
            if not future.done():
                future.set_result(None)
        if tickets:
            self._kick()
        changes, self._changes = self._changes, []
        for future in changes:
            if not future.done():
                future.set_result(None)

    def _kick(self) -> None:
        self._kicking = False
        engine = self._engine
        if engine is None:
            return
        try:
            engine.journal.kick(self._wanted)
        except HStreamError as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End every wait with the error."""
        tickets, self._tickets = self._tickets, []
        for _, _, future in tickets:
            if not future.done():
                future.set_exception(error)
        changes, self._changes = self._changes, []
        for future in changes:
            if not future.done():
                future.set_result(None)

    def ticket(self, ticket: int) -> asyncio.Future[None]:
        """Return a future of the ticket becoming durable."""
        future = self.loop.create_future()
        if self._engine is None:
            future.set_exception(StoreClosed(""))
            return future
        if ticket <= self._engine.journal.durable():
            future.set_result(None)
            return future
        heappush(self._tickets, (ticket, next(self._number), future))
        self._wanted = max(self._wanted, ticket)
        if not self._kicking:
            self._kicking = True
            self.loop.call_soon(self._kick)
        return future

    async def change(self, durable: int, seconds: float | None) -> None:
        """Return after the next group or poke, or after so many seconds."""
        engine = self._engine
        if engine is None or engine.journal.durable() > durable:
            return
        staged = engine.journal.staged()
        if staged > durable:
            self._wanted = max(self._wanted, staged)
            self._kick()
        future = self.loop.create_future()
        self._changes.append(future)
        timer = None if seconds is None else self.loop.call_later(seconds, _settle, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        if self._engine is None:
            return
        error = StoreClosed(self._engine.path)
        self.loop.remove_reader(self.fd)
        self._engine = None
        self.fail(error)
        self.discard()

    def discard(self) -> None:
        """Close the descriptors, which no log writes to any more."""
        lib.hsl_notify_close(self._ends)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def in_thread(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run what may block in a worker thread; a cancelled caller does not stop it."""
    return await asyncio.to_thread(function, *args, **options)
