"""The rivals, each behind the interface that the workloads are written against.

Every rival is used as somebody who knows it well would use it for append-only streams with dense
sequence numbers as keys. What a level means for each:

======== ========================== ============================ ==============================
level    lmdb                       apsw (SQLite, WAL)           rocksdict
======== ========================== ============================ ==============================
memory   in an open transaction     in an open transaction       in a write batch not yet
         of at most 32 MiB          of at most 32 MiB            written, of at most 32 MiB
os       committed, sync=False:     committed,                   written to the WAL
         a power cut may damage     synchronous=NORMAL
         the file
sync     committed and synced       committed,                   written to the WAL and synced
                                    synchronous=FULL
======== ========================== ============================ ==============================

Only what the caller was told to be durable is compared: lmdb keeps no checksums, SQLite has them in
its WAL only, rocksdict and hstreamlite check every byte read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from typing import Any, Literal, Protocol, TypeAlias

Level: TypeAlias = Literal["memory", "os", "sync"]

MODULES = ("lmdb", "apsw", "rocksdict")
"""Rivals: modules of this package, named like the distributions they drive."""

PENDING_BYTES_MAX = 32 << 20
"""What a rival at level "memory" gathers before it commits without being asked."""


class Log(Protocol):
    """A contender as a set of append-only streams numbered from 0, opened at one level."""

    def append_list(self, payloads: list[bytes], stream: int = 0, *, durable: bool = False) -> None:
        """Append payloads in order; durable=True returns when all so far survives a power cut."""

    def appender(self) -> Callable[[bytes], object]:
        """Return the shortest way to append one payload to stream 0, for many threads at once.

        For the levels os and sync.
        """

    def settle(self) -> None:
        """Return when everything so far survives a power cut."""

    def scan(self) -> tuple[int, int]:
        """Read all streams with ids and payloads; return how many records and bytes there are."""

    def group(self, consumers: int) -> Group:
        """Return a group of consumers that share stream 0, starting at its first record."""

    def close(self) -> None:
        """Close in good order."""


class Member(Protocol):
    """One consumer of a group, used by one thread."""

    def receive(self, limit: int) -> Sequence[Any]:
        """Return up to limit deliveries, leased to this member; none when there are none."""

    def ack(self, deliveries: Any) -> object:
        """Mark what `receive` returned as done."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over deliveries until the group is closed, taking 100 at a time inside."""

    def ack_one(self, delivery: Any) -> object:
        """Mark one delivery of the iteration as done."""


class Group(Protocol):
    """Consumers over one shared progress, at least once, that is kept across a restart."""

    @property
    def members(self) -> Sequence[Member]: ...

    def unacked(self) -> int:
        """Return how many records of the stream are still to be acked."""

    def close(self) -> None:
        """Detach all members, which ends their iteration, and keep the progress."""


class Opener(Protocol):
    """Opens or creates a log in a directory."""

    def __call__(self, path: str, level: Level, *, streams: int = 1) -> Log: ...


def openers() -> tuple[Mapping[str, Opener], Mapping[str, str]]:
    """Return the openers of the installed rivals by name, and the distributions' versions."""
    found: dict[str, Opener] = {}
    versions: dict[str, str] = {}
    for module in MODULES:
        try:
            adapter = import_module(f"benchmarks.rivals.{module}")
        except ModuleNotFoundError:
            versions[module] = "not installed"
            continue
        found.update(adapter.OPENERS)
        versions[module] = metadata.version(module)
    return found, versions
