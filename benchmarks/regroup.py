"""What regrouping gives and what it costs: two runs of our own, without rivals.

    python -m benchmarks.regroup cold [--logs N] [--blocks N] [--rounds N] [--dir PATH]
    python -m benchmarks.regroup steady [--minutes M] [--keep BYTES] [--dir PATH]

*cold* reads one old log out of thousands that were written in turns, before and after `compact`,
beside logs of the same bytes that were written in one piece, one of each in turn: the ratio is what
lying scattered costs, the median of the rounds with the least and greatest. Beside them stands the
disk's own: as many pages as the log has blocks, anywhere in the store, by plain calls: first
`posix_fadvise` for each, then `pread`. Python's collector has done its work before each clock
starts, as it would otherwise add as much to each of the two. *steady* appends
durably for so long, at least three times what the store keeps, while retention drops the oldest and
the rest is regrouped at once; it shows what each minute is like beside the first.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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
_PAGE = 4096
_QUIET = hs.StoreConfig(regroup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regroup", description=__doc__)
    parser.add_argument("run", choices=("cold", "steady"))
    parser.add_argument("--logs", type=int, default=10_000)
    parser.add_argument("--blocks", type=int, default=400, help="of each log, 1 KB each")
    parser.add_argument("--rounds", type=int, default=5, help="of cold: each reads every log once")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", type=int, default=4096 * _MIB, help="bytes that retention leaves")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a disk, not a tmpfs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hstreamlite-bench-", dir=options.dir) as directory:
        path = Path(directory) / "store"
        if options.run == "cold":
            _cold(path, options.logs, options.blocks, options.rounds)
        else:
            _steady(path, options.minutes, options.keep)
    return 0


# One cold log of thousands.


@dataclass(frozen=True, slots=True)
class _Round:
    """Median times in ms: to read a log written in turns, one in one piece, and pages alone."""

    scattered: float
    piece: float
    pages: float

    @property
    def ratio(self) -> float:
        return self.scattered / self.piece


def _cold(path: Path, logs: int, blocks: int, rounds: int) -> None:
    scattered = [f"log-{number}" for number in range(logs)]
    alone = [f"alone-{number}" for number in range(_SAMPLES)]
    _write_in_turns(path, scattered, alone, blocks)
    pairs = list(zip(random.Random(1).sample(scattered, _SAMPLES), alone, strict=True))
    before = [_read_pairs(path, pairs, blocks) for _ in range(rounds)]
    with hs.open(path, config=_QUIET) as store:
        begin = perf_counter()
        store.compact()
        seconds = perf_counter() - begin
        written = store.stats().log["bytes_regrouped"]
    after = [_read_pairs(path, pairs, blocks) for _ in range(rounds)]
    size = blocks * _RECORDS * _SIZE
    print(f"one cold log of {logs:,}: {blocks} blocks, {size:,} bytes of payload, {_SAMPLES} logs")
    titles = f"{'scattered':>12} {'in one piece':>12} {'pages alone':>12}"
    print(f"{'':12} {titles} {'scattered / in one piece':>25} of {rounds} rounds")
    _show_rounds("as appended", before)
    _show_rounds("regrouped", after)
    print(f"regrouping wrote {written / _MIB:.0f} MiB in {seconds:.1f} s")


def _show_rounds(title: str, rounds: list[_Round]) -> None:
    ratios = sorted(found.ratio for found in rounds)
    scattered = median(found.scattered for found in rounds)
    piece = median(found.piece for found in rounds)
    pages = median(found.pages for found in rounds)
    figures = f"{scattered:9.2f} ms {piece:9.2f} ms {pages:9.2f} ms"
    print(f"{title:12} {figures} {median(ratios):11.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")


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


def _read_pairs(path: Path, pairs: list[tuple[str, str]], blocks: int) -> _Round:
    """Read a log of each kind in turn, so that what else the machine does meets both alike."""
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    os.sync()
    for number, pair in enumerate(pairs):
        for kind in (0, 1) if number % 2 == 0 else (1, 0):
            times[kind].append(_read_cold(path, pair[kind], blocks))
        times[2].append(_read_pages(path, blocks, number))
    return _Round(*(median(kind) * 1e3 for kind in times))


def _read_cold(path: Path, name: str, blocks: int) -> float:
    """Return the seconds that reading a log takes, nothing of it in memory."""
    with hs.open(path, config=_QUIET) as store:
        stream = store.stream(name)
        evict(path)
        gc.collect()
        begin = perf_counter()
        found = sum(len(record.payload) for record in stream.read())
        seconds = perf_counter() - begin
    expect(f"bytes of {name}", found, blocks * _RECORDS * _SIZE)
    return seconds


def _read_pages(path: Path, count: int, seed: int) -> float:
    """Return the seconds that reading so many pages of the store's segments takes, none cached."""
    evict(path)
    files = [os.open(file, os.O_RDONLY) for file in sorted(path.rglob("*.seg"))]
    try:
        pages = [(fd, at) for fd in files for at in range(0, os.fstat(fd).st_size, _PAGE)]
        chosen = sorted(random.Random(seed).sample(pages, count))
        begin = perf_counter()
        for fd, at in chosen:
            os.posix_fadvise(fd, at, _PAGE, os.POSIX_FADV_WILLNEED)
        found = sum(len(os.pread(fd, _PAGE, at)) for fd, at in chosen)
        seconds = perf_counter() - begin
    finally:
        for fd in files:
            os.close(fd)
    expect("bytes of pages", found, count * _PAGE)
    return seconds


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
