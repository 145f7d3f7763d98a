"""One run: its streams, its threads, and its reports as it goes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from hstreamlite.cli.access import Access
from hstreamlite.cli.bench import work
from hstreamlite.cli.bench.meter import Counts, Meter, counts_of, line_of
from hstreamlite.cli.bench.pace import Pace
from hstreamlite.cli.bench.target import StoreTarget, Target
from hstreamlite.cli.exits import Exit, Refusal
from hstreamlite.cli.output import Output

_DRAIN_SECONDS = 30.0
_LOOK_SECONDS = 0.02


class Run:
    """The options of a run, and what came of it."""

    def __init__(
        self,
        access: Access,
        output: Output,
        *,
        stream_count: int,
        shard_count: int,
        stream_name_prefix: str,
        stream_replication_factor: int,
        stream_backlog_duration: float,
        keep: bool,
        record_size: int,
        key_count: int,
        payload_type: str,
        batch_records: int,
        un_buffered: bool,
        thread_count: int | None,
        report_interval: float,
        bench_time: float,
        warmup: float,
        consumer_count: int = 1,
        ack_timeout: float = 60,
        rate_limit: int = 0,
        total_size: int = 0,
        **appending: Any,
    ) -> None:
        if report_interval <= 0:
            raise Refusal("--report-interval must be above 0", Exit.USAGE)
        self._access = access
        self._output = output
        run = os.urandom(4).hex()
        self._streams = [f"{stream_name_prefix}-{run}-{n}" for n in range(stream_count)]
        self._creating: Any = {
            "shards": shard_count,
            "backlog": stream_backlog_duration,
            "replication": stream_replication_factor,
        }
        self._keep = keep
        self._mould = work.Mould(size=record_size, keys=key_count, as_json=payload_type == "json")
        self._batch = 1 if un_buffered else batch_records
        self._threads = thread_count or stream_count
        self._rate = rate_limit
        self._interval = report_interval
        self._bench_time = bench_time
        self._warmup = warmup
        self._consumers = consumer_count
        self._ack_timeout = ack_timeout
        self._total = -(-total_size // max(1, record_size))
        self._appending = appending
        self._writing = threading.Event()
        """Set when writers are to end."""
        self._reading = threading.Event()
        """Set when readers are to end."""
        self._writers: list[threading.Thread] = []
        self._readers: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._interrupted = False

    def write(self) -> None:
        with self._target() as target, self._ready(target), ExitStack() as stack:
            writers = self._start_writers(target, stack, self._total)
            self._measure({"write": writers}, self._written)
        self._check()

    def read(self) -> None:
        with self._target() as target, self._ready(target, subscribed=True):
            with ExitStack() as stack:
                self._fill(target, stack)
            with ExitStack() as stack:
                self._writing.clear()
                readers = self._start_readers(target, stack, end_to_end=False)
                self._measure({"read": readers}, lambda: counts_of(readers).records >= self._total)
        self._check()

    def write_read(self) -> None:
        with (
            self._target() as target,
            self._ready(target, subscribed=True),
            ExitStack() as stack,
        ):
            readers = self._start_readers(target, stack, end_to_end=True)
            writers = self._start_writers(target, stack, self._total)
            self._measure({"write": writers, "read": readers}, self._written)
        self._check()

    @contextmanager
    def _target(self) -> Iterator[Target]:
        if self._access.service_url:
            from hstreamlite.cli.bench.server import ServerTarget

            with self._access.wire() as wire:
                yield ServerTarget(wire)
            return
        with self._access.opened(create=True) as store:
            yield StoreTarget(store)

    @contextmanager
    def _ready(self, target: Target, *, subscribed: bool = False) -> Iterator[None]:
        """Make the streams; delete them at the end, if they are not to be kept."""
        with ExitStack() as stack:
            for name in self._streams:
                target.create_stream(name, **self._creating)
                if not self._keep:
                    stack.callback(target.delete_stream, name)
                if subscribed:
                    target.create_subscription(name, stream=name, ack_timeout=self._ack_timeout)
                    if not self._keep:
                        stack.callback(target.delete_subscription, name)
            yield

    def _start_writers(self, target: Target, stack: ExitStack, most: int = 0) -> list[Meter]:
        """Start the threads that write; most = how many records in all, 0 = until the end."""
        meters = [Meter()]
        meters += [Meter(meters[0].latency) for _ in range(1, self._threads)]
        stack.callback(self._join_writers)
        for n, meter in enumerate(meters):
            stream = self._streams[n % len(self._streams)]
            share = most // self._threads + (n < most % self._threads)
            if most and not share:
                continue
            writer = work.Writer(
                send=target.sender(stream, **self._appending),
                mould=self._mould,
                batch=self._batch,
                pace=Pace(self._rate / self._threads),
                meter=meter,
                stop=self._writing,
            )
            self._writers.append(work.start(partial(writer.run, share), self._failed))
        return meters

    def _start_readers(self, target: Target, stack: ExitStack, *, end_to_end: bool) -> list[Meter]:
        wanted = [(stream, n) for stream in self._streams for n in range(self._consumers)]
        meters = [Meter()]
        meters += [Meter(meters[0].latency) for _ in wanted[1:]]
        receivers = [
            stack.enter_context(target.receiver(stream, f"consumer-{n}")) for stream, n in wanted
        ]
        stack.callback(self._join_readers)  # before their consumers are closed
        for receiver, meter in zip(receivers, meters, strict=True):
            reader = work.Reader(
                receiver=receiver,
                mould=self._mould,
                meter=meter,
                stop=self._reading,
                end_to_end=end_to_end,
            )
            self._readers.append(work.start(reader.run, self._failed))
        return meters

    def _written(self) -> bool:
        """Say whether all has been written that is to be; False while there is no limit."""
        return bool(self._total) and not any(thread.is_alive() for thread in self._writers)

    def _join_writers(self) -> None:
        self._writing.set()
        for thread in self._writers:
            thread.join()

    def _join_readers(self) -> None:
        self._reading.set()
        for thread in self._readers:
            thread.join()

    def _failed(self, error: BaseException) -> None:
        """End all threads; the first error is told."""
        if self._error is None:
            self._error = error
        self._writing.set()
        self._reading.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._interrupted:
            raise KeyboardInterrupt

    def _fill(self, target: Target, stack: ExitStack) -> None:
        """Write the backlog that is to be read."""
        meters = self._start_writers(target, stack, self._total)
        while not self._written():
            self._reading.wait(_LOOK_SECONDS)
        if self._error is not None:
            raise self._error
        missing = self._total - counts_of(meters).records
        if missing:
            raise Refusal(f"{missing:,} of {self._total:,} records could not be written")
        if not self._output.as_json:
            self._output.text(f"wrote {self._total:,} records to read")

    # Measuring.

    def _measure(self, meters: dict[str, list[Meter]], done: Callable[[], bool]) -> None:
        """Report while it runs, and in the end."""
        nothing = {what: counts_of([Meter()]) for what in meters}
        began, base = time.monotonic(), nothing
        try:
            self._wait(began + self._warmup, done)
            if self._warmup and not done():  # else all there is to measure is over
                began, base = time.monotonic(), self._counts(meters)
            end = began + self._bench_time if self._bench_time else float("inf")
            at, before = began, base
            while not self._over(done) and time.monotonic() < end:
                self._wait(min(at + self._interval, end), done)
                now, counts = time.monotonic(), self._counts(meters)
                self._tell("interval", now - at, counts, before)
                at, before = now, counts
        except KeyboardInterrupt:
            self._interrupted = bool(self._bench_time)  # else it is the way to end it
        more = {}
        both = {"write", "read"} <= set(meters)
        if both and self._written():
            more["missing"] = self._missing(meters)
        ended, counts = time.monotonic(), self._counts(meters)
        if both and not more:  # rates are those until here, whatever is read later
            more["missing"] = self._missing(meters)
        self._tell("summary", ended - began, counts, base, more)

    def _missing(self, meters: dict[str, list[Meter]]) -> int:
        """Return how many records that were written do not come to be read, in a fair time."""
        self._join_writers()
        written = counts_of(meters["write"]).records
        self._wait(
            time.monotonic() + _DRAIN_SECONDS, lambda: counts_of(meters["read"]).records >= written
        )
        return max(0, written - counts_of(meters["read"]).records)

    def _wait(self, until: float, done: Callable[[], bool]) -> None:
        while not self._over(done) and (left := until - time.monotonic()) > 0:
            self._reading.wait(min(left, _LOOK_SECONDS))

    def _over(self, done: Callable[[], bool]) -> bool:
        return self._error is not None or done()

    def _counts(self, meters: dict[str, list[Meter]]) -> dict[str, Counts]:
        return {what: counts_of(each) for what, each in meters.items()}

    def _tell(
        self,
        report: str,
        seconds: float,
        counts: dict[str, Counts],
        before: dict[str, Counts],
        more: dict[str, Any] | None = None,
    ) -> None:
        facts = {what: each.since(before[what]).facts(seconds) for what, each in counts.items()}
        if self._output.as_json:
            said = {"report": report, "seconds": round(seconds, 3), **facts, **(more or {})}
            self._output.text(json.dumps(said))
            return
        for what, each in facts.items():
            self._output.text(f"{report:<8} {seconds:6.1f} s  {line_of(what, each)}")
            if report == "summary":
                self._output.text(f"{what}: {each['records']:,} records, {each['bytes']:,} bytes")
        for name, value in (more or {}).items():
            self._output.text(f"{name}: {value:,}")
