"""Group commit by hand: one writer takes all payloads that wait and appends them as one list.

None of the rivals gathers Python callers by itself, because each holds its lock or the interpreter
while it syncs. These two are what somebody writes who needs it, for threads and for asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeAlias

from benchmarks.rivals import Group, Level, Log, Opener

_Waiting: TypeAlias = tuple[bytes, "Future[None]"]


class GatheredLog:
    """A log whose single appends pass through a writer thread. The rest goes straight to it."""

    def __init__(self, log: Log):
        self._log = log
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._writer = Thread(target=self._write)
        self._writer.start()

    def _write(self) -> None:
        while (first := self._queue.get()) is not None:
            waiting = [first]
            try:
                while (another := self._queue.get_nowait()) is not None:
                    waiting.append(another)
            except Empty:
                pass
            else:
                self._queue.put(None)  # the end was reached: the next round is to see it
            try:
                self._log.append_list([payload for payload, _ in waiting])
            except Exception as failure:  # noqa: BLE001 - raised where the result is waited for
                for _, done in waiting:
                    done.set_exception(failure)
            else:
                for _, done in waiting:
                    done.set_result(None)

    def appender(self) -> Callable[[bytes], object]:
        put = self._queue.put

        def append(payload: bytes) -> None:
            done: Future[None] = Future()
            put((payload, done))
            done.result()

        return append

    def append_list(self, payloads: list[bytes], stream: int = 0, *, durable: bool = False) -> None:
        self._log.append_list(payloads, stream, durable=durable)

    def settle(self) -> None:
        self._log.settle()

    def scan(self) -> tuple[int, int]:
        return self._log.scan()

    def group(self, consumers: int) -> Group:
        return self._log.group(consumers)

    def close(self) -> None:
        self._queue.put(None)
        self._writer.join()
        self._log.close()


def gathered(opener: Opener) -> Opener:
    """Return an opener whose logs have a writer thread."""

    def open_gathered(path: str, level: Level, *, streams: int = 1) -> Log:
        return GatheredLog(opener(path, level, streams=streams))

    return open_gathered


def pooled(log: Log, threads: int) -> tuple[Callable[[bytes], Awaitable[object]], Executor]:
    """Return a coroutine that appends in a pool of threads, and the pool."""
    pool = ThreadPoolExecutor(threads)
    run = asyncio.get_running_loop().run_in_executor
    append = log.appender()
    return lambda payload: run(pool, append, payload), pool


def batched(log: Log) -> tuple[Callable[[bytes], Awaitable[object]], Executor]:
    """Return a coroutine that appends together with all that wait, and the pool of one thread."""
    pool = ThreadPoolExecutor(1)
    loop = asyncio.get_running_loop()
    waiting: list[tuple[bytes, asyncio.Future[None]]] = []
    writing = False

    async def write() -> None:
        nonlocal waiting, writing
        while waiting:
            taken, waiting = waiting, []
            try:
                await loop.run_in_executor(pool, log.append_list, [payload for payload, _ in taken])
            except Exception as failure:  # noqa: BLE001 - raised where the result is awaited
                for _, done in taken:
                    done.set_exception(failure)
            else:
                for _, done in taken:
                    done.set_result(None)
        writing = False

    def append(payload: bytes) -> Awaitable[object]:
        nonlocal writing
        done = loop.create_future()
        waiting.append((payload, done))
        if not writing:
            writing = True
            tasks.add(loop.create_task(write()))
        return done

    tasks: set[asyncio.Task[None]] = set()
    return append, pool
