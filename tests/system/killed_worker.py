"""The process that is killed: appends or acks for ever, and reports what was acknowledged."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import cast

import hstreamlite as hs

SEEN, ACKED, SYNCED = 0, 1, 2


def report(numbers: Iterable[int]) -> None:
    """Hand a group to the other process; one write of less than a pipe takes at once is whole."""
    os.write(1, b"%s\n" % b" ".join(b"%d" % number for number in numbers))


def record(number: int) -> hs.Record:
    return hs.Record(b"%d %d" % (number, number * 2654435761 % 2**32), key=f"k{number % 7}")


def numbers_of(batch: Iterable[hs.Delivery]) -> Iterable[int]:
    return (int(cast("bytes", delivery.payload)) for delivery in batch)


def append(path: str, level: hs.Durability, first: int) -> None:
    store = hs.open(path, durability=level)
    stream = store.stream("orders")
    while True:
        for size in (1, 10, 1, 100, 40):
            numbers = range(first, first + size)
            if size == 1:
                stream.append(record(first))
            else:
                stream.append_many([record(number) for number in numbers])
            report(numbers)
            first += size
        with store.transaction() as tx:
            for number in range(first, first + 20):
                tx.append("orders", record(number))
        report(range(first, first + 20))
        first += 20


def ack(path: str, progress_acks: int) -> None:
    config = hs.StoreConfig(progress_acks=progress_acks, progress_interval=60)
    with (
        hs.open(path, config=config) as store,
        store.subscription("s").consumer("c") as consumer,
    ):
        while batch := consumer.receive(100, timeout=0):
            report((SEEN, *numbers_of(batch)))
            for delivery in batch[:50]:
                delivery.ack()
            consumer.ack(batch[50:])
            report((ACKED, *numbers_of(batch)))
            store.sync()
            report((SYNCED,))


if __name__ == "__main__":
    if sys.argv[1] == "append":
        append(sys.argv[2], sys.argv[3], int(sys.argv[4]))  # type: ignore[arg-type]
    else:
        ack(sys.argv[2], int(sys.argv[3]))
