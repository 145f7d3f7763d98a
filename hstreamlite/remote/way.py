"""How the nouns of the blocking face reach those that live on the event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from hstreamlite.remote.link import Link
from hstreamlite.remote.thread import LoopThread

T = TypeVar("T")


class Way:
    """The way from any thread to the loop of one store."""

    def __init__(self, thread: LoopThread, link: Link) -> None:
        self._thread = thread
        self.link = link

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> T:
        """Call a coroutine function; StoreClosed or Forked where that is in vain."""
        self.link.check()
        return self._thread.run(function, *args, **options)

    def made(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Make a noun on the loop, and return it when the server knows of it."""

        async def make() -> T:
            noun: Any = function(*args, **options)
            made: T = await noun
            return made

        return self.run(make)

    def close(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Call what ends something, as long as there is a loop to do it."""
        if not self.link.closed and not self.link.forked:
            self._thread.run(function, *args)

    def post(self, function: Callable[[], object]) -> None:
        """Have a function called on the loop, ahead of any later call. Never waits: it may be the
        collector of garbage that calls, in any thread."""
        if not self.link.closed and not self.link.forked:
            with suppress(RuntimeError):  # the loop is closed
                self.link.loop.call_soon_threadsafe(function)

    async def in_thread(self, function: Callable[[], object]) -> None:
        """Call what blocks beside the loop."""
        await asyncio.to_thread(function)
