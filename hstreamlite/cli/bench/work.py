"""The threads of a run: one that writes, one that reads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

from hstreamlite.cli.bench.meter import Meter
from hstreamlite.cli.bench.pace import Pace
from hstreamlite.cli.bench.target import Receiver, Sender
from hstreamlite.errors import HStreamError
from hstreamlite.records import Payload, Record

_STAMP = 8
_FRAME = 40
"""About what a JSON record takes beside its padding."""
_RECEIVE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mould:
    """What records are made of."""

    size: int
    keys: int
    as_json: bool

    def maker(self) -> Callable[[int], list[Record]]:
        """Return what makes a batch of so many records, each with the time in it."""
        keys = [f"key-{n}" for n in range(self.keys)]
        chosen = cycle(keys)
        chance = os.urandom(max(0, self.size - _STAMP))
        pad = chance.hex()[: max(0, self.size - _FRAME)]

        def make(records: int) -> list[Record]:
            now = time.monotonic_ns()
            payload: Payload = {"at": now, "pad": pad}
            if not self.as_json:
                payload = (now.to_bytes(_STAMP, "little") + chance)[: self.size]
            return [Record(payload, key=next(chosen)) for _ in range(records)]

        return make

    def age_ns(self, record: Record) -> int:
        """Return how long ago a record was made; 0 if it is too small to tell."""
        payload = record.payload
        if isinstance(payload, dict):
            return max(0, time.monotonic_ns() - int(payload["at"]))
        if len(payload) < _STAMP:
            return 0
        return max(0, time.monotonic_ns() - int.from_bytes(payload[:_STAMP], "little"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Appends batches, one after the other."""

    send: Sender
    mould: Mould
    batch: int
    pace: Pace
    meter: Meter
    stop: threading.Event

    def run(self, most: int) -> None:
        """Append until the end, or so many records; 0 = no limit."""
        make = self.mould.maker()
        left = most
        while left or not most:
            records = min(self.batch, left) if most else self.batch
            left -= records
            wait = self.pace.wait_ns(records, time.monotonic_ns())
            if self.stop.wait(wait / 1e9) if wait else self.stop.is_set():
                return
            self._append(make(records))

    def _append(self, batch: list[Record]) -> None:
        started = time.monotonic_ns()
        try:
            self.send(batch)
        except HStreamError as error:
            self.meter.failures += len(batch)
            if not error.retryable:
                raise
        else:
            elapsed = time.monotonic_ns() - started
            self.meter.done(len(batch), self.mould.size * len(batch), elapsed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Receives and acks."""

    receiver: Receiver
    mould: Mould
    meter: Meter
    stop: threading.Event
    end_to_end: bool

    def run(self) -> None:
        """Receive until the end. Latency: since the first record was made, or of receiving."""
        while not self.stop.is_set():
            started = time.monotonic_ns()
            batch = self.receiver.receive(_RECEIVE_SECONDS)
            if not batch:
                continue
            if self.end_to_end:
                elapsed = self.mould.age_ns(batch[0])
            else:
                elapsed = time.monotonic_ns() - started
            self.receiver.ack(batch)
            self.meter.done(len(batch), self.mould.size * len(batch), elapsed)


def start(work: Callable[[], None], failed: Callable[[BaseException], object]) -> threading.Thread:
    """Run work in a thread, which tells what it raises."""

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failed(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread
