"""What regrouping gives and what it costs: two runs of our own, without rivals.

    python -m benchmarks.regroup cold [--logs N] [--blocks N] [--dir PATH]
    python -m benchmarks.regroup steady [--minutes M] [--keep BYTES] [--dir PATH]

*cold* reads one old log out of thousands that were written in turns, before and after `compact`,
beside logs of the same bytes that were written in one piece: the ratio is what lying scattered
costs. *steady* appends durably for so long, at least three times what the store keeps, while
retention drops the oldest and the rest is regrouped at once; it shows what each minute is like
beside the first.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns

import hstreamlite as hs
from benchmarks.cases import expect
from benchmarks.plan import Plan
from benchmarks.reopen import evict

_RECORDS = 10
_SIZE = 100
_SAMPLES = 15
_STREAMS = 1000
_MIB = 1 << 20
_QUIET = hs.StoreConfig(regroup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regroup", description=__doc__)
    parser.add_argument("run", choices=("cold", "steady"))
    parser.add_argument("--logs", type=int, default=10_000)
    parser.add_argument("--blocks", type=int, default=400, help="of each log, 1 KB each")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", type=int, default=4096 * _MIB, help="bytes that retention leaves")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a disk, not a tmpfs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hstreamlite-bench-", dir=options.dir) as directory:
        path = Path(directory) / "store"
        if options.run == "cold":
            _cold(path, options.logs, options.blocks)
        else:
            _steady(path, options.minutes, options.keep)
    return 0


# One cold log of thousands.


def _cold(path: Path, logs: int, blocks: int) -> None:
    scattered = [f"log-{number}" for number in range(logs)]
    alone = [f"alone-{number}" for number in range(_SAMPLES)]
    _write_in_turns(path, scattered, alone, blocks)
    source = random.Random(1)
    sample = source.sample(scattered, _SAMPLES)
    piece = _median_ms(path, alone, blocks)
    before = _median_ms(path, sample, blocks)
    with hs.open(path, config=_QUIET) as store:
        begin = perf_counter()
        store.compact()
        seconds = perf_counter() - begin
        written = store.stats().log["bytes_regrouped"]
    rest = _median_ms(path, alone, blocks)
    after = _median_ms(path, sample, blocks)
    size = blocks * _RECORDS * _SIZE
    print(f"one cold log of {logs:,}: {blocks} blocks, {size:,} bytes of payload, {_SAMPLES} logs")
    print(f"{'':16} {'scattered':>12} {'in one piece':>12} {'ratio':>6}")
    print(f"{'as appended':16} {before:9.2f} ms {piece:9.2f} ms {before / piece:6.2f}")
    print(f"{'regrouped':16} {after:9.2f} ms {rest:9.2f} ms {after / rest:6.2f}")
    print(f"regrouping wrote {written / _MIB:.0f} MiB in {seconds:.1f} s")


def _write_in_turns(path: Path, scattered: list[str], alone: list[str], blocks: int) -> None:
    lists = Plan().lists(100, _RECORDS, _SIZE)
    turns = random.Random(2)
    with hs.open(path, durability="memory", config=_QUIET) as store:
        for names in (scattered, alone):
            with store.transaction() as tx:
                for name in names:
                    tx.create_stream(name)
        streams = [store.stream(name) for name in scattered]
        for number in range(blocks):
            turns.shuffle(streams)
            for stream in streams:
                stream.append_many(lists[number % len(lists)])
        for name in alone:
            stream = store.stream(name)
            for number in range(blocks):
                stream.append_many(lists[number % len(lists)])


def _median_ms(path: Path, names: list[str], blocks: int) -> float:
    """Return the time that reading one of the logs takes, nothing of it in memory."""
    times = []
    for name in names:
        with hs.open(path, config=_QUIET) as store:
            stream = store.stream(name)
            evict(path)
            begin = perf_counter()
            found = sum(len(record.payload) for record in stream.read())
            times.append(perf_counter() - begin)
        expect(f"bytes of {name}", found, blocks * _RECORDS * _SIZE)
    return median(times) * 1e3


# A store that has reached its size.


def _steady(path: Path, minutes: float, keep: int) -> None:
    lists = Plan().lists(100, _RECORDS, 10 * _SIZE)
    batch = sum(map(len, lists[0]))
    config = hs.StoreConfig(regroup_after=1.0, retention_interval=1.0)
    heading = ("minute", "MB/s", "of first", "p50 us", "p99.9 us", "RSS MB", "disk MB", "written/x")
    print(" ".join(f"{name:>9}" for name in heading))
    with hs.open(path, config=config) as store:
        names = [f"stream-{number}" for number in range(_STREAMS)]
        for name in names:
            store.create_stream(name, max_bytes=keep // _STREAMS)
        streams = [store.stream(name) for name in names]
        turns = random.Random(3)
        begin = perf_counter()
        appended = 0
        first = 0.0
        minute = 0
        while perf_counter() - begin < minutes * 60 or appended < 3 * keep:
            minute += 1
            times: list[int] = []
            end = perf_counter() + 60
            while perf_counter() < end:
                stream = turns.choice(streams)
                started = perf_counter_ns()
                stream.append_many(lists[len(times) % len(lists)])
                times.append(perf_counter_ns() - started)
            appended += len(times) * batch
            rate = len(times) * batch / 60e6
            first = first or rate
            _show(store, minute, rate, first, sorted(times), appended)


def _show(
    store: hs.Store, minute: int, rate: float, first: float, times: list[int], appended: int
) -> None:
    stats = store.stats()
    written = stats.log["bytes_written"] + stats.log["bytes_regrouped"]
    half, most = times[len(times) // 2], times[len(times) * 999 // 1000]
    rss = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
    figures = f"{minute:9} {rate:9.1f} {rate / first:9.2f} {half / 1e3:9.0f} {most / 1e3:9.0f}"
    sizes = f"{rss / 1e6:9.0f} {stats.disk_bytes / 1e6:9.0f} {written / appended:9.2f}"
    print(figures, sizes, flush=True)


if __name__ == "__main__":
    sys.exit(main())
