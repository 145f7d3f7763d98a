"""Rivals with leases that are kept: every fetch and every ack is handed to the store by itself.

Another comparison than `benchmarks.rivals.leases`, which keeps leases in memory and saves progress
now and then, as hstreamlite does: here a process that is killed at any moment has lost no lease and
no ack. lmdb, rocksdict and apsw have no subscriptions; what one writes over them is the same each
time, `tables.LeaseTable`: a lease is a row, made in the transaction that fetches and deleted in the
one that acks; one lease for a list that is acked whole. redis has consumer groups and leanqueue is
a leased queue. All are at the level that survives the death of the process and not of the machine:

========== =======================================================================================
lmdb       committed, sync=False
rocksdict  written to the WAL
apsw       committed, WAL, synchronous=NORMAL, the file locked for good
redis      appendonly, appendfsync=everysec, a Unix socket, redis-py with hiredis
leanqueue  sync_interval_ms=1000
========== =======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Protocol, TypeAlias

MODULES = {
    "lmdb": ("lmdb",),
    "rocksdict": ("rocksdict",),
    "apsw": ("apsw",),
    "redis": ("redis", "hiredis"),
    "leanqueue": ("leanqueue",),
}
"""Rivals: modules of this package, and the distributions that each needs."""

ACK_TIMEOUT = 30.0


class Worker(Protocol):
    """One consumer, used by one thread. What is taken to be acked singly is leased singly."""

    def take_one(self) -> Any:
        """Return a delivery, None if there is none."""

    def ack_one(self, delivery: Any) -> object:
        """Ack what `take_one` returned, or one of `take_singles`."""

    def take_singles(self, limit: int) -> Sequence[Any]:
        """Return deliveries, each of which is to be acked by `ack_one`."""

    def take_list(self, limit: int) -> Any:
        """Return deliveries that are to be acked together; falsy if there are none."""

    def payloads(self, deliveries: Any) -> Sequence[bytes]:
        """Return the payloads of what `take_list` returned."""

    def ack_list(self, deliveries: Any) -> object:
        """Ack what `take_list` returned."""


class Queue(Protocol):
    """A contender: a backlog, and consumers that share it."""

    def fill(self, payloads: list[bytes]) -> None:
        """Append records, before there are consumers."""

    def workers(self, count: int) -> Sequence[Worker]:
        """Return so many consumers."""

    def left(self) -> int:
        """Return how many records are not acked; all consumers rest."""

    def close(self) -> None:
        """Close in good order."""


Opener: TypeAlias = Callable[[Path], Queue]


def openers() -> tuple[Mapping[str, Opener], Mapping[str, str]]:
    """Return the openers of the installed rivals by name, and the versions of what they are."""
    found: dict[str, Opener] = {}
    versions: dict[str, str] = {}
    for name, distributions in MODULES.items():
        try:
            for distribution in distributions:
                versions[distribution] = metadata.version(distribution)
            adapter = import_module(f"benchmarks.leased.{name}")
            versions |= adapter.versions()
        except (ImportError, metadata.PackageNotFoundError, OSError) as error:
            versions[name] = f"not here: {error}"
            continue
        found[name] = adapter.opener
    return found, versions
