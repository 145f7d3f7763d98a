"""How the log wakes an event loop, and how what blocks stays out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from hstreamlite._native import ffi, lib
from hstreamlite.aio.tasks import look_at
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
        self._tickets: dict[int, list[asyncio.Future[None]]] = {}
        self._changes: list[asyncio.Future[None]] = []
        self._durable = 0
        self._wanted = 0
        self._kicking = False
        self._engine: Engine | None = None
        self._turn = asyncio.Lock()
        self.waiting = 0
        """Appends that wait for room. Those that are called after them come `in_turn`, too."""
        self.loop = asyncio.get_running_loop()

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        self._durable = engine.journal.durable()
        self.loop.add_reader(self.fd, self._ring)

    def _ring(self) -> None:
        lib.hsl_notify_drain(self.fd)
        engine = self._engine
        assert engine is not None
        durable = self._durable = engine.journal.durable()
        for ticket in sorted(self._tickets):
            if ticket > durable:
                self._kick()
                break
            for future in self._tickets.pop(ticket):
                if not future.done():
                    future.set_result(None)
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
        tickets, self._tickets = self._tickets, {}
        for futures in tickets.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        changes, self._changes = self._changes, []
        for future in changes:
            if not future.done():
                future.set_result(None)

    def check_loop(self) -> None:
        """Raise RuntimeError in another loop: what is staged there could not be waited for."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError(
                "the store belongs to the event loop that it was opened in, which is not the one "
                "that runs; open it in this one, or use hstreamlite.open from several"
            )

    def ticket(self, ticket: int) -> asyncio.Future[None]:
        """Return a future of the ticket becoming durable.

        The callers of one group share a ticket. What has become durable since the last ring needs
        no look here: the bell rings for it.
        """
        future = self.loop.create_future()
        if self._engine is None:
            future.set_exception(StoreClosed(""))
            return future
        if ticket <= self._durable:
            future.set_result(None)
            return future
        try:
            self._tickets[ticket].append(future)
        except KeyError:
            self._tickets[ticket] = [future]
            self._wanted = max(self._wanted, ticket)
        if not self._kicking:
            self._kicking = True
            self.loop.call_soon(self._kick)
        return future

    async def in_turn(self, attempt: Callable[[], T | None], wait: Callable[[], T]) -> T:
        """Return what the attempt gives once it is this call's turn; if that is None, wait for it
        in a thread. So appends are stored in the order of their calls, whichever finds no room."""
        self.waiting += 1
        try:
            async with self._turn:
                found = attempt()
                return await in_thread(wait) if found is None else found
        finally:
            self.waiting -= 1

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
    """Run what may block in a worker thread; a cancelled caller does not stop it.

    Nor does it take the call out of the line for a thread, as it would of `asyncio.to_thread`.
    """
    call = partial(copy_context().run, function, *args, **options)
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(look_at)
        raise
