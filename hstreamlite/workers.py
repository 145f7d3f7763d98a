"""Consumers with threads: `Consumer.run`.

The thread that calls `run` only waits, and takes no lock that a worker needs: so Ctrl-C, and
SystemExit from a signal, may strike it anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from hstreamlite.env import Lock
from hstreamlite.errors import HStreamError
from hstreamlite.handling import Handled, Handling, Holder, OnError, inside
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.sub.turns import Turn

_SLICE_SECONDS = 0.25


class Receiving(Holder, Protocol):
    """What is known here of a consumer."""

    def _poll(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int, end: int | None
    ) -> DeliveryBatch: ...


class Workers:
    """One run of a consumer."""

    def __init__(
        self,
        consumer: Receiving,
        handling: Handling,
        handle: Callable[[Delivery], object],
        on_error: OnError | None,
    ) -> None:
        self.handling = handling
        self._consumer = consumer
        self._handle = handle
        self._on_error = on_error
        self._env = consumer._feed.env
        self._lock = self._env.threads.lock()
        self._gate = self._env.threads.lock()
        self._gate.acquire()
        self._live = 0
        self._waiting: list[Lock] = []

    def run(self) -> None:
        """Handle deliveries until stopped, and raise what stopped it."""
        handling = self.handling
        try:
            if self._env.threaded:
                self._start()
                self._wait(None)
                self.join()
            else:
                self._work()
                handling.stop()
        except BaseException:
            handling.stop()
            self.join()
            raise
        handling.outcome()

    def _start(self) -> None:
        """Start the threads, and let them begin when all are there: what strikes while they are
        started, such as Ctrl-C, leaves no handler behind that nobody waits for."""
        try:
            for number in range(self.handling.width):
                self._env.threads.start(f"worker-{number}", self._work_in_thread)
            self._live = self.handling.width
        except BaseException:
            self.handling.stop()
            raise
        finally:
            self._gate.release()

    def join(self) -> None:
        """Wait for handlers that run, as long as the run grants them; not for the one that this
        is called from."""
        if self.is_here():
            return
        if not self._wait(self._env.clock.mono_ns() + self.handling.drain_ns):
            self.handling.late()

    def _wait(self, end: int | None) -> bool:
        """Wait for all workers to end, until a time or else until the run is stopped, and say
        whether they have.

        Not by joining threads: a join that Ctrl-C interrupts takes them for ended.
        """
        clock = self._env.clock
        bell = self._env.threads.lock()
        bell.acquire()
        self._waiting.append(bell)
        try:
            while self._live > 0:
                if end is None and self.handling.stopping:
                    return False
                left = _SLICE_SECONDS if end is None else (end - clock.mono_ns()) / 1e9
                if left <= 0:
                    return False
                bell.acquire(timeout=min(left, _SLICE_SECONDS))
        finally:
            self._waiting.remove(bell)
        return True

    def _work_in_thread(self) -> None:
        with self._gate:
            pass
        try:
            self._work()
        finally:
            with self._lock:
                self._live -= 1
            for bell in list(self._waiting):
                with suppress(RuntimeError):  # it rings
                    bell.release()

    def is_here(self) -> bool:
        """Tell whether the caller is one of its handlers."""
        return inside.get() is self

    def _work(self) -> None:
        before = inside.set(self)
        bell = self._env.threads.lock()
        bell.acquire()
        try:
            while (step := self.handling.next(bell.release)) is not None:
                if isinstance(step, Turn):
                    self._do(step)
                elif step:
                    if not self._take(step):
                        return
                else:
                    bell.acquire()
        except BaseException as error:  # noqa: BLE001 - whoever called run gets it
            self.handling.stop(error)
        finally:
            inside.reset(before)

    def _take(self, room: int) -> bool:
        """Take deliveries; False where that was in vain, as without threads it may be."""
        try:
            batch = self._consumer._poll(self.handling.take, room, None)
        except HStreamError as error:
            self.handling.taken(error)
            return False
        except BaseException as error:
            self.handling.taken(error)
            raise
        self.handling.taken()
        return bool(batch)

    def _do(self, turn: Handled) -> None:
        handling = self.handling
        try:
            self._handle(turn.item)
        except Exception as error:  # noqa: BLE001 - it is told, and the record comes again
            handling.tell(turn, error)
            try:
                if self._on_error is not None:
                    self._on_error(turn.item, error)
            finally:
                handling.failed(turn, error)
        except BaseException as error:
            handling.failed(turn, error)
            raise
        else:
            handling.succeeded(turn)
