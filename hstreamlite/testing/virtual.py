"""Time that passes when a test says so, for stores on a simulated machine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hstreamlite.config import check_duration
from hstreamlite.store import Store, open as open_store
from hstreamlite.testing.simenv import SimEnv

_SECONDS_MAX = 1e9
_STEPS_MAX = 1000
"""What is due within a thousandth of the time that passes happens together."""


class VirtualClock:
    """A clock, and the stores that live by it.

    >>> clock = VirtualClock()
    >>> store = clock.open()
    >>> jobs = store.create_stream("jobs").append(b"job")
    >>> consumer = store.create_subscription("s", stream="jobs", ack_timeout=30).consumer("w")
    >>> [delivery.attempt for delivery in consumer.receive()]
    [1]
    >>> clock.advance(31)
    >>> [delivery.attempt for delivery in consumer.receive()]
    [2]
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.env = SimEnv(seed=seed)
        """The machine: its disk, its randomness, its crashes."""
        self._stores: list[Store] = []

    def open(self, path: str = "/store", **options: Any) -> Store:
        """Open a store on this machine, with the options of `hstreamlite.open`."""
        store = open_store(path, env=self.env, **options)
        self._stores.append(store)
        return store

    def now(self) -> datetime:
        """Return what time it is there."""
        return datetime.fromtimestamp(self.env.clock.wall_ms() / 1000, UTC)

    def advance(self, by: float | timedelta) -> None:
        """Let so many seconds pass; the stores do what is due on the way, in its order."""
        clock = self.env.clock
        total = int(check_duration("by", by, _SECONDS_MAX) * 1e9)
        end = clock.mono_ns() + total
        while (now := clock.mono_ns()) < end:
            due = min((at for at in map(self._tick, self._stores) if at is not None), default=end)
            then = min(end, max(due, now + total // _STEPS_MAX + 1))
            self.env.advance((then - now) / 1e9)
        for store in self._stores:
            self._tick(store)

    @staticmethod
    def _tick(store: Store) -> int | None:
        return None if store.closed else store.tick()
