"""The store's own thread: what must happen without anybody calling.

Deadlines of deliveries, stored progress, batches whose age is up, retention, snapshots. One thread
a store, asleep until the earliest of these. Where the environment has no threads, `run_once` is
called by whoever drives it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from hstreamlite.engine import Engine
from hstreamlite.errors import HStreamError, StorageFull, StoreClosed, StoreFailed
from hstreamlite.feeds import Feeds
from hstreamlite.housekeeping import Housekeeping
from hstreamlite.meters import Meters

log = logging.getLogger("hstreamlite")

_RETRY_NS = 1_000_000_000
_ROOM_NS = 1_000_000_000
_ROOM_TOLD_NS = 60_000_000_000
"""A full disk is looked for, and told of, so often."""


class TimedProducer(Protocol):
    """What the ticker knows of a producer."""

    def send_if_due(self, now: int) -> int | None: ...
    def flush(self) -> None: ...


class Ticker:
    """Runs the housekeeping of one store.

    The bell is a plain lock, free while it rings. A Condition would not do: its ``__enter__`` is
    Python code, in which Ctrl-C may strike when the lock is taken and not yet in the ``with``. Then
    nobody ever releases it, and close waits for a thread that waits for the lock.
    """

    def __init__(self, engine: Engine, feeds: Feeds) -> None:
        self._engine = engine
        self._feeds = feeds
        self._lock = engine.env.threads.lock()
        self._bell = engine.env.threads.lock()
        self._bell.acquire()
        self.house = Housekeeping(engine)
        self.meters = Meters(engine, feeds)
        self._producers: dict[int, TimedProducer] = {}
        self._stopped = False
        self._thread: object | None = None
        self._progress_ns = int(engine.config.progress_interval * 1e9 / 2)
        self._retention_ns = int(engine.config.retention_interval * 1e9)
        engine.wake = self.wake
        self._next_retention_ns = engine.env.clock.mono_ns() + self._retention_ns
        self._next_regroup_ns: int | None = None
        self._full = 0
        self._next_room_ns = 0

    def start(self) -> None:
        if self._engine.env.threaded:
            self._thread = self._engine.env.threads.start("ticker", self._run)

    def stop(self) -> None:
        self._stopped = True
        self.wake()
        if self._thread is not None and not self._engine.forked:
            self._thread.join()  # type: ignore[attr-defined]
        self._thread = None
        if not self._engine.forked:
            self.house.regrouper.close()

    def wake(self) -> None:
        """Look at the deadlines again: there may be an earlier one."""
        with suppress(RuntimeError):  # nobody has answered since it was rung last
            self._bell.release()

    def add_producer(self, producer: TimedProducer) -> None:
        with self._lock:
            self._producers[id(producer)] = producer

    def remove_producer(self, producer: TimedProducer) -> None:
        with self._lock:
            self._producers.pop(id(producer), None)

    def flush_producers(self) -> None:
        """Flush all producers; the first error is raised after all were tried."""
        first: HStreamError | None = None
        for producer in list(self._producers.values()):
            try:
                producer.flush()
            except HStreamError as error:
                first = first or error
        if first is not None:
            raise first

    def _run(self) -> None:
        clock = self._engine.env.clock
        while True:
            try:
                at = self.run_once()
            except (StoreClosed, StoreFailed):
                return
            except Exception:
                # Without this thread deadlines, progress and retention would stop unseen.
                log.exception("background work of %r failed and is tried again", self._engine.path)
                at = clock.mono_ns() + _RETRY_NS
            wait = 3600.0 if at is None else (at - clock.mono_ns()) / 1e9
            self._bell.acquire(timeout=max(0.0, min(wait, 3600.0)))
            if self._stopped:
                return

    def run_once(self) -> int | None:
        """Do what is due; return when something is due next, in ns of the monotonic clock."""
        engine = self._engine
        now = engine.env.clock.mono_ns()
        with self._lock:
            producers = list(self._producers.values())
        deadlines = [self._next_retention_ns]
        for producer in producers:
            at = producer.send_if_due(now)
            if at is not None:
                deadlines.append(at)
        at = self._feeds.tick(now)
        if at is not None:
            deadlines.append(max(at, now + 1_000_000))
        deadlines.append(self.meters.tick(now))
        if engine.staged_trims:
            self._tried("trimming", self._trim)
            deadlines.append(now + self._progress_ns)
        self._tell_full(now)
        if self._feeds.busy():
            deadlines.append(now + self._progress_ns)
        if now >= self._next_retention_ns:
            self._next_retention_ns = now + self._retention_ns
            deadlines[0] = self._next_retention_ns
            self._keep_house()
            if engine.config.regroup:
                self._next_regroup_ns = now
        if self._next_regroup_ns is not None and now >= self._next_regroup_ns:
            self._next_regroup_ns = self._regroup()
        if self._next_regroup_ns is not None:
            deadlines.append(self._next_regroup_ns)
        return min(deadlines)

    def _tell_full(self, now: int) -> None:
        """Warn of appends that found no room, whoever made them."""
        if now < self._next_room_ns:
            return
        self._next_room_ns = now + _ROOM_NS
        found = self._engine.journal.refused_for_room()
        if found > self._full:
            log.warning(
                "no room on the disk of %r: %d appends were refused; trim or delete streams, "
                "shorten their retention, or free space, and appends go on by themselves",
                self._engine.path,
                found - self._full,
            )
            self._full, self._next_room_ns = found, now + _ROOM_TOLD_NS

    def _regroup(self) -> int | None:
        """Do a piece of regrouping; return when to go on, resting as long as it took."""
        clock = self._engine.env.clock
        begin = clock.mono_ns()
        if not self._tried("regrouping", self.house.regrouper.step):
            return None
        end = clock.mono_ns()
        return end + max(end - begin, 1_000_000)

    def _keep_house(self) -> None:
        self._tried("retention", self._expire)

    def _expire(self) -> bool:
        self.house.expire(self._feeds.protected())
        if self.house.snapshot_due():
            self.house.snapshot()
        return True

    def _trim(self) -> bool:
        self.house.apply_trims()
        return True

    def _tried(self, what: str, work: Callable[[], bool]) -> bool:
        """Do work that is tried again later where it fails."""
        try:
            return work()
        except StorageFull as error:
            log.warning("%s has to wait: %s", what, error)
        except (StoreClosed, StoreFailed):
            raise
        except (HStreamError, OSError, MemoryError):
            log.exception("%s of %r failed and is tried again later", what, self._engine.path)
        return False
