"""What a worker was promised over its lives, and whether a store keeps it.

Records are numbered from 1 in each stream, so a number is an LSN, and carry the life of the worker
that wrote them. So the ledger knows every byte a stream may hold:

- no record of a level that the end survives is missing, and none that was ever shown;
- the rest is a prefix: no hole, nothing twice, nothing of a life that had lost it;
- what one transaction did is there or not; a record is copied, or produced by name, exactly once;
- acks that were stored are not forgotten, and no record is passed over.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import hstreamlite as hs

ORDERS, LEFT, RIGHT, COPIES, PRODUCED = STREAMS = "orders", "left", "right", "copies", "produced"
COPY, PLAIN = "copy", "plain"
PROGRESS_ACKS = 20
SIZES = 20, 33, 700, 20, 50, 2500, 90
SURVIVING = {"kill": ("sync", "os"), "power cut": ("sync",)}


def payload(number: int, life: int) -> bytes:
    head = b"%d %d " % (number, life)
    return head + (hashlib.sha256(head).digest() * 80)[: SIZES[number % len(SIZES)]]


def key(number: int) -> str:
    return f"k{number % 7}"


def last_of(stream: hs.Stream) -> int:
    """Return the number of the newest record; 0 for none."""
    tail = stream.tail()
    return tail.lsn if tail else 0


def numbers_of(records: Iterable[hs.Record | hs.Delivery]) -> list[int]:
    return [record.id.lsn for record in records if record.id is not None]


def small(**options: object) -> dict[str, object]:
    """Return settings under which few records go through rolls, drops, checkpoints, snapshots."""
    return {
        "segment_bytes_min": 64 << 10,
        "segment_bytes_max": 128 << 10,
        "frame_bytes": 16 << 10,
        "eager_bytes": 4 << 10,
        "batch_bytes_max": 8 << 10,
        "transaction_bytes_max": 64 << 10,
        "chunk_bytes": 64 << 10,
        "stage_bytes": 512 << 10,
        "prewrite_bytes": 16 << 10,
        "checkpoint_bytes": 64 << 10,
        "os_stage_bytes": 64 << 10,
        "tail_bytes": 64 << 10,
        "progress_acks": PROGRESS_ACKS,
        "progress_interval": 60,
        **options,
    }


@dataclass
class Line:
    """One stream: what was promised of it, by number."""

    promised: dict[str, int] = field(default_factory=dict)
    trimming: int = 1
    trimmed: int = 1
    bounds: list[int] = field(default_factory=list)
    lives: list[int] = field(default_factory=list)

    def show(self, last: int) -> None:
        """Take note of the last number that was seen."""
        self.promised = {"sync": last}

    def live(self, last: int, life: int) -> None:
        """Take note of the last number before this life wrote."""
        self.bounds.append(last)
        self.lives.append(life)

    def life_of(self, number: int) -> int:
        return self.lives[bisect_left(self.bounds, number) - 1]


class Ledger:
    """One store over the lives of its workers."""

    def __init__(self) -> None:
        self.lines = {name: Line() for name in STREAMS}
        self.life = 0
        self.dark = False
        self.ends: set[str] = set()
        self.failed = ""
        self.seen: set[int] = set()
        self.seen_now: set[int] = set()
        self.acked_now: list[int] = []
        self.bygone: set[int] = set()
        self.counts: Counter[str] = Counter()

    def begin(self) -> int:
        """Begin the next life; return its number."""
        self.life += 1
        self.dark = False
        self.failed = ""
        self.seen_now = set()
        self.acked_now = []
        return self.life

    def end(self, how: str) -> None:
        """Note a kill or a power cut."""
        self.ends.add(how)

    def take(self, words: list[str]) -> None:
        """Believe one report of the worker, and check what it shows.

        From a power cut on it promises nothing: no machine lives to tell, and a sync that is under
        way when ext4 is shut down may return 0 without having kept anything.
        """
        match words:
            case ["cut"]:
                self.dark = True
            case ["did" | "opened" | "trimmed" | "stored" | "accepted", *_] if self.dark:
                pass
            case ["did", stream, level, _, last]:
                assert not self.failed, f"acknowledged {words} after {self.failed}"
                line = self.lines[stream]
                self.counts["acknowledged"] += 1 + int(last) - int(words[3])
                line.promised[level] = int(last)
            case ["found", stream, last]:
                self._check_last(stream, int(last))
                self.lines[stream].live(int(last), self.life)
                if not self.dark:
                    self.lines[stream].show(int(last))
            case ["opened"]:
                self._check_pairs({name: line.promised["sync"] for name, line in self.known()})
                self.ends.clear()
            case ["trimming", stream, first]:
                self.lines[stream].trimming = int(first)
            case ["trimmed", stream, first]:
                self.lines[stream].trimmed = int(first)
            case ["seen", *numbers]:
                self._see(set(map(int, numbers)), len(numbers))
            case ["acked", *numbers]:
                self.acked_now += map(int, numbers)
            case ["stored"]:
                self.bygone.update(self.acked_now[: max(0, len(self.acked_now) - PROGRESS_ACKS)])
            case ["failed", error, outcome]:
                self.failed = f"{error} {outcome}"
            case ["full", "none"]:
                self.seen_now.clear()
            case ["refused", _]:
                assert self.failed
            case ["accepted", "sync"]:
                for line in self.lines.values():
                    line.promised["sync"] = max(line.promised.values(), default=0)
            case ["closed"]:
                assert not self.failed
            case _:
                raise AssertionError(f"unknown report {words}")

    def failed_well(self) -> bool:
        """Say whether the failure had the type that it must have in an open store."""
        typed = self.failed in ("StoreFailed unknown", "StorageFull none")
        return typed or self.failed.endswith((" opening", " closing"))

    def known(self) -> list[tuple[str, Line]]:
        return [(name, line) for name, line in self.lines.items() if line.bounds]

    def _see(self, numbers: set[int], count: int) -> None:
        assert len(numbers) == count, "delivered twice in one batch"
        assert not numbers & self.seen_now, "delivered twice to one consumer"
        assert not numbers & self.bygone, "stored acks are forgotten"
        self.seen |= numbers
        self.seen_now |= numbers

    def _check_last(self, stream: str, last: int) -> None:
        """Compare the end of a stream with what had to survive."""
        levels = ["sync", "os", "memory"]
        for end in self.ends:
            levels = [level for level in levels if level in SURVIVING[end]]
        for level in levels:
            promised = self.lines[stream].promised.get(level, 0)
            assert last >= promised, f"{stream}: {level} promised {promised}, found {last}"

    def _check_pairs(self, last: dict[str, int]) -> None:
        assert last.get(LEFT, 0) == last.get(RIGHT, 0), f"half a transaction: {last}"
        assert last.get(COPIES, 0) <= last.get(LEFT, 0), f"copies of nothing: {last}"

    def check(self, store: hs.Store) -> None:
        """Read everything in an open store and compare; what is shown now has to stay."""
        self.counts["replayed"] += store.recovery.stage_records
        names = {info.name for info in store.streams()}
        last = {}
        for name, line in self.lines.items():
            assert name in names or not line.bounds, f"stream {name} is lost"
            if name in names:
                last[name] = self._check_stream(store.stream(name), line)
                self._check_last(name, last[name])
                line.show(last[name])
        self._check_pairs(last)
        self.ends.clear()
        if PRODUCED in names:
            producer = store.stream(PRODUCED).producer(name="p")
            assert producer.last_sequence == last[PRODUCED]

    def _check_stream(self, stream: hs.Stream, line: Line) -> int:
        last = last_of(stream)
        records = list(stream.read())
        numbers = numbers_of(records)
        first = numbers[0] if numbers else last + 1
        assert line.trimmed <= first <= line.trimming, f"{stream.name} begins at {first}"
        assert numbers == list(range(first, last + 1)), "a hole"
        for number, record in enumerate(records, first):
            life = line.life_of(number)
            assert record.payload == payload(number, life), f"{stream.name} {number} of {life}"
            assert record.key == key(number)
        self.counts["checked"] += len(records)
        return last

    def drain(self, store: hs.Store) -> None:
        """Receive what the subscriptions still hold: nothing was passed over."""
        self.begin()
        self.counts["segments"] += store.recovery.lowest + store.recovery.segments - 1
        self.counts["dropped"] += store.recovery.lowest - 1
        with store.subscription(PLAIN).consumer("c") as consumer:
            while batch := consumer.receive(1000, timeout=0):
                self._see(set(numbers_of(batch)), len(batch))
        copied, left, right = (last_of(store.stream(name)) for name in (COPIES, LEFT, RIGHT))
        assert self.seen == set(range(1, right + 1)), "records were never delivered"
        with store.subscription(COPY).consumer("c") as consumer:
            rest = numbers_of(consumer.receive(100_000, timeout=0))
        assert rest == list(range(copied + 1, left + 1)), "records were copied twice, or not"

    @staticmethod
    def tell(counts: Counter[str]) -> str:
        return (
            "{acknowledged} acknowledged, 0 lost, 0 double, 0 foreign; {checked} records read back,"
            " {replayed} recovered from the mapped stage; {segments} segments, {dropped} dropped"
        ).format_map(counts)
