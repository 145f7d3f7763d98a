"""What order by key costs: a backlog worked off in mode "ordered" against mode "shared".

python -m benchmarks.keys [--keys N] [--consumers N] [--records N]

Consumers take turns in one thread: each receives up to 100 records, and acks those that it received
the time before. So all of them have records in hand all the time, and keys meet. The modes take
turns too, over the same stream; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import hstreamlite as hs
from benchmarks.machine import describe

_MODES = ("shared", "ordered")
_TOGETHER = 100
_SIZE = 100
_SEED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keys", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--consumers", type=int, default=100)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a disk, not a tmpfs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hstreamlite-bench-", dir=options.dir) as directory:
        for what, fact in describe(Path(directory)).items():
            print(f"{what}: {fact}")
        with hs.open(Path(directory) / "store") as store:
            _fill(store, options.records, options.keys)
            seconds: dict[str, list[float]] = {mode: [] for mode in _MODES}
            for _ in range(options.rounds):
                for mode in _MODES:
                    seconds[mode].append(_work_off(store, mode, options))
    _show(seconds, options)
    return 0


def _fill(store: hs.Store, records: int, keys: int) -> None:
    source = random.Random(_SEED)
    stream = store.create_stream("events")
    for begin in range(0, records, 1000):
        count = min(1000, records - begin)
        payloads = [source.randbytes(_SIZE) for _ in range(count)]
        stream.append_many(
            [hs.Record(payload, key=f"key-{source.randrange(keys)}") for payload in payloads],
            durability="memory",
        )
    store.sync()


def _work_off(store: hs.Store, mode: str, options: argparse.Namespace) -> float:
    subscription = store.create_subscription(
        "group", stream="events", mode=mode, max_unacked=4 * _TOGETHER * options.consumers
    )
    consumers = [subscription.consumer(f"c{n}") for n in range(options.consumers)]
    held: list[hs.DeliveryBatch | None] = [None] * len(consumers)
    left = options.records
    begin = perf_counter()
    while left:
        for number, consumer in enumerate(consumers):
            batch = consumer.receive(_TOGETHER, timeout=0)
            if (before := held[number]) is not None and before:
                left -= consumer.ack(before).new
            held[number] = batch
    seconds = perf_counter() - begin
    store.delete_subscription("group", force=True)
    return seconds


def _show(seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    print(
        f"{options.records:,} records of {_SIZE} B, {options.keys:,} keys, "
        f"{options.consumers:,} consumers, lists of {_TOGETHER}, seed {_SEED}"
    )
    for mode, times in seconds.items():
        rates = sorted(options.records / time for time in times)
        print(f"{mode:8} {median(rates):10,.0f} records/s ({rates[0]:,.0f}-{rates[-1]:,.0f})")
    shared, ordered = (median(seconds[mode]) for mode in _MODES)
    print(f"ordered takes {ordered / shared:.2f} of the time of shared (goal: at most 1.67)")


if __name__ == "__main__":
    sys.exit(main())
