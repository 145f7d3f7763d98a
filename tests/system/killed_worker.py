"""The processes that are killed: they write, consume, ack and trim, and report what was promised;
others read the same directory, and report what they were shown.

Started as a module, this forks a worker for each command on its standard input, one at a time.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import hstreamlite as hs
from tests.system.ledger import (
    COPIES,
    COPY,
    LEFT,
    ORDERS,
    PLAIN,
    PRODUCED,
    RIGHT,
    STREAMS,
    key,
    last_of,
    numbers_of,
    payload,
)

KEPT = 150


def report(*words: object) -> None:
    """Hand a line to the other process; one write of less than a pipe takes at once is whole."""
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


class Writer:
    """Does a bit of everything a store can do, round after round."""

    def __init__(self, store: hs.Store, life: int, levels: list[hs.Durability]) -> None:
        self.store = store
        self.life = life
        self.levels = levels
        self.last: dict[str, int] = {}
        for name in STREAMS:
            stream = store.create_stream(name, exists_ok=True)
            self.last[name] = last_of(stream)
            report("found", name, self.last[name])
        for name, of in ((COPY, LEFT), (PLAIN, RIGHT)):
            store.create_subscription(name, stream=of, ack_timeout=3600, exists_ok=True)
        self.producer = store.stream(PRODUCED).producer(name="p")
        assert self.producer.last_sequence == self.last[PRODUCED]
        report("opened")

    def next(self, stream: str, count: int) -> list[hs.Record]:
        """Return the next records of a stream."""
        first = self.last[stream] + 1
        return [
            hs.Record(payload(number, self.life), key=key(number))
            for number in range(first, first + count)
        ]

    def did(self, stream: str, count: int, level: str = "sync") -> None:
        self.last[stream] += count
        report("did", stream, level, self.last[stream] - count + 1, self.last[stream])

    def append(self, level: hs.Durability, count: int) -> None:
        records = self.next(ORDERS, count)
        stream = self.store.stream(ORDERS)
        if count == 1:
            record_id = stream.append(records[0], durability=level)
        else:
            record_id = stream.append_many(records, durability=level)[0]
        assert record_id.lsn == self.last[ORDERS] + 1
        self.did(ORDERS, count, level)

    def transact(self, count: int) -> None:
        with self.store.transaction() as tx:
            for stream in (LEFT, RIGHT):
                tx.append_many(stream, self.next(stream, count))
        for stream in (LEFT, RIGHT):
            self.did(stream, count)

    def produce(self, count: int) -> None:
        """Submit what was submitted last once more, and then what is new."""
        last = self.last[PRODUCED]
        if last:
            again = self.producer.submit(b"again", sequence=last).result()
            assert again.lsn == last
        for record in self.next(PRODUCED, count):
            self.producer.submit(record)
        self.producer.flush()
        self.did(PRODUCED, count)

    def copy(self, attached: hs.Consumer) -> None:
        """Consume, transform and produce, exactly once."""
        while batch := attached.receive(13, timeout=0):
            records = self.next(COPIES, len(batch))
            first = self.last[COPIES] + 1
            assert numbers_of(batch) == list(range(first, first + len(batch)))
            with self.store.transaction() as tx:
                tx.append_many(COPIES, records)
                tx.ack(batch)
            self.did(COPIES, len(batch))

    def ack(self, attached: hs.Consumer) -> None:
        while batch := attached.receive(17, timeout=0):
            report("seen", *numbers_of(batch))
            for delivery in batch[:4]:
                delivery.ack()
            attached.ack(batch[4:])
            report("acked", *numbers_of(batch))
        self.store.sync()
        report("stored")

    def trim(self, stream: str) -> None:
        first = self.last[stream] - KEPT
        if first > 1:
            place = self.store.stream(stream).tail()
            assert place is not None
            report("trimming", stream, first)
            self.store.stream(stream).trim(before=hs.RecordId(place.shard_id, first, 0))
            report("trimmed", stream, first)

    def run_on(self, rounds: int) -> None:
        """Run, and go on a few times when the disk is full: nothing of what failed has happened."""
        for _ in range(3):
            try:
                self.run(rounds)
            except hs.StorageFull as error:
                report("full", error.outcome)
                self.producer = self.store.stream(PRODUCED).producer(name="p")
                assert self.producer.last_sequence == self.last[PRODUCED]
            else:
                break

    def run(self, rounds: int) -> None:
        with (
            self.store.subscription(COPY).consumer("c") as copying,
            self.store.subscription(PLAIN).consumer("c") as acking,
        ):
            for number in range(rounds):
                for level in self.levels:
                    for count in (1, 1, 30, 1):
                        self.append(level, count)
                self.transact(7)
                self.produce(5)
                self.copy(copying)
                self.ack(acking)
                if number % 2 == 1:
                    for stream in STREAMS:
                        self.trim(stream)


def write(
    path: str,
    life: int,
    levels: list[hs.Durability],
    config: dict[str, Any],
    rounds: int = 1 << 30,
    waits: str = "",
) -> None:
    """Write until the process is killed, or so many rounds; say how it failed."""
    opened, phase = None, "opening"
    wait("pid", waits)
    try:
        opened = hs.open(path, config=hs.StoreConfig(**config))
        phase = ""
        writer = Writer(opened, life, levels)
        wait("opened", waits)
        writer.run_on(rounds)
        phase = "closing"
        opened.close()
        report("closed")
    except (hs.HStreamError, OSError) as error:
        report("failed", type(error).__name__, phase or getattr(error, "outcome", "unknown"))
        if opened is not None and isinstance(error, hs.StoreFailed):
            refuse(opened)


def refuse(store: hs.Store) -> None:
    """Make calls of a store that has failed. None may succeed; but a sync that finds everything
    durable tells the truth."""
    stream = store.stream(ORDERS)

    def transact() -> None:
        with store.transaction() as tx:
            tx.append(LEFT, b"never")

    calls: dict[str, Callable[[], object]] = {
        "append": lambda: stream.append(b"never"),
        "append-os": lambda: stream.append(b"never", durability="os"),
        "append-memory": lambda: stream.append_many([b"never"] * 50, durability="memory"),
        "transaction": transact,
        "delete": lambda: store.delete_stream(COPIES),
        "create": lambda: store.create_stream("never"),
        "sync": store.sync,
    }
    for name, call in calls.items():
        try:
            call()
        except (hs.StoreFailed, hs.StoreClosed, hs.StreamNotFound):
            report("refused", name)
        else:
            report("accepted", name)
    with suppress(hs.StoreFailed):
        store.close()


def acks(path: str, progress_acks: int) -> None:
    config = hs.StoreConfig(progress_acks=progress_acks, progress_interval=60)
    with (
        hs.open(path, config=config) as opened,
        opened.subscription("s").consumer("c") as attached,
    ):
        while batch := attached.receive(100, timeout=0):
            report("seen", *numbers_of(batch))
            for delivery in batch[:50]:
                delivery.ack()
            attached.ack(batch[50:])
            report("acked", *numbers_of(batch))
            opened.sync()
            report("stored")


def transform(path: str, workers: int) -> None:
    """Consume, transform and produce with several handlers, until the process is killed."""
    with hs.open(path) as opened, opened.subscription("s").consumer("c") as attached:

        def handle(delivery: hs.Delivery) -> None:
            number = numbers_of([delivery])[0]
            with opened.transaction() as tx:
                tx.append("doubled", {"of": number, "is": 2 * number})
                tx.ack(delivery)
            report("did", number)

        attached.run(handle, workers=workers)


class Following:
    """Reads a store that another process writes, and checks every record by itself."""

    def __init__(self, store: hs.Store) -> None:
        self.store = store
        self.last: dict[str, int] = {}

    def take(self, stream: str, record: hs.Record, *, gap: bool) -> None:
        assert record.id is not None
        assert isinstance(record.payload, bytes)
        number, life = map(int, record.payload.split(b" ", 2)[:2])
        last = self.last.get(stream, 0)
        assert record.id.lsn == number
        assert record.payload == payload(number, life)
        assert record.key == key(number)
        assert number == last + 1 or (gap and number > last)
        self.last[stream] = number
        report("shown", stream, number, life)

    def read(self, name: str, *, follow: bool = False) -> Iterator[None]:
        """Take record after record, behind what was taken before."""
        stream = self.store.stream(name)
        tail = stream.tail()
        gap = name not in self.last or tail is None
        try:
            place = hs.RecordId(tail.shard_id, self.last[name] + 1, 0) if tail and not gap else None
            reader = stream.read(start=place or hs.EARLIEST, follow=follow)
        except hs.RecordTrimmed:
            report("gap", name)
            gap = True
            reader = stream.read(follow=follow)
        while True:
            try:
                record = next(reader, None)
            except hs.RecordTrimmed:
                report("gap", name)
                gap = True
                continue
            if record is None:
                return
            self.take(name, record, gap=gap)
            gap = False
            yield

    def look(self) -> None:
        for info in self.store.streams():
            deque(self.read(info.name), maxlen=0)
        report("looked")


def follow(path: str, records: int = 1 << 30, waits: str = "") -> None:
    """Look at all there is, then follow one stream for so many records, looking at the others."""
    wait("pid", waits)
    with hs.open(path, read_only=True) as opened:
        report("opened")
        following = Following(opened)
        following.look()
        if records:
            for number, _ in enumerate(following.read(ORDERS, follow=True), 1):
                if number % 40 == 0:
                    for name in STREAMS[1:]:
                        deque(following.read(name), maxlen=0)
                if number >= records:
                    break


COMMANDS: dict[str, Callable[..., None]] = {
    "write": write,
    "acks": acks,
    "transform": transform,
    "follow": follow,
}


def wait(here: str, there: str) -> None:
    """Wait at this report until the test says go, if that is where it wants to."""
    if here == there:
        os.read(0, 1)


def live(do: str, *, env: dict[str, str] | None = None, **options: Any) -> None:
    os.environ.update(env or {})
    report("pid", os.getpid())
    COMMANDS[do](**options)


def main() -> None:
    hs.open  # noqa: B018 - loads the package, before the first fork
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            try:
                live(**json.loads(line))
            except BaseException:  # noqa: BLE001 - nothing may return into the parent's loop
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        report("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
