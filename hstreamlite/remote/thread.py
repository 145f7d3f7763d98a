"""The thread on which remote stores of the blocking face live: one event loop for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from hstreamlite import signals
from hstreamlite._native.files import real_env
from hstreamlite.env import Env

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, as long as somebody uses it."""

    def __init__(self, env: Env, loop: asyncio.AbstractEventLoop) -> None:
        self._env = env
        self.pid = env.pid()
        self.users = 0
        self.loop = loop
        self._stopped = False
        self._thread = env.threads.start("remote", self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> T:
        """Call a coroutine function on the loop and wait for its result.

        What interrupts the wait, as Ctrl-C does, cancels it.
        """
        future: Future[T] = asyncio.run_coroutine_threadsafe(function(*args, **options), self.loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("the thread of remote stores ended") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Wait for its end. Interrupted, it may be called again."""
        if not self._stopped:
            self._stopped = True
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


def new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(_tell)
    return loop


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of what nobody caught, but for what gRPC finds when another loop was faster: all loops
    of a process wait for its news at one socket."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


class _Threads:
    """The one that is in use, if any.

    All have the same loop, one after the other: gRPC tells a loop of calls that ended even after
    its thread did, and any other loop of the process logs an error when that one is closed.
    """

    def __init__(self) -> None:
        self._env = real_env()
        self._lock = self._env.threads.lock()
        self._current: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._of_parents: list[asyncio.AbstractEventLoop] = []
        self._env.after_fork_in_child(self._in_forked_child)

    def take(self) -> LoopThread:
        with self._lock:
            if self._current is not None and not self._current.users:
                self._end(self._current)  # whoever gave it back was interrupted
            if self._loop is None:
                self._loop = new_loop()
                signals.close_at_exit(self._close)
            if self._current is None:
                self._current = LoopThread(self._env, self._loop)
            self._current.users += 1
            return self._current

    def give_back(self, thread: LoopThread) -> None:
        with self._lock:
            thread.users -= 1
            if not thread.users:
                self._end(thread)

    def _end(self, thread: LoopThread) -> None:
        """Wait until the loop is free for another thread."""
        thread.stop()
        self._current = None

    def _close(self) -> None:
        with self._lock:
            if self._current is None and self._loop is not None:
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
                self._loop.close()
                self._loop = None

    def _in_forked_child(self) -> None:
        """The thread is not there, and whoever held the lock may not be either.

        The loop is kept, untouched: a loop that is closed, if only by being collected, changes
        what the parent's waits for.
        """
        self._lock = self._env.threads.lock()
        self._current = None
        if self._loop is not None:
            self._of_parents.append(self._loop)
            self._loop = None


threads = _Threads()
