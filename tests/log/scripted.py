"""One scripted life of a store over everything it does, witnessed by the model."""

from __future__ import annotations

from collections.abc import Iterator

from hstreamlite.testing.model import Outcome
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Witness


class Stopped(Exception):
    """A call of the script did not succeed."""


def must(outcome: Outcome) -> None:
    if outcome != "ok":
        raise Stopped


def batch(tag: str, count: int, size: int, keys: int = 0) -> list[tuple[str | None, bytes]]:
    return [
        (f"k{i % keys}" if keys else None, f"{tag}-{i}:".encode().ljust(size, b"."))
        for i in range(count)
    ]


def script(w: Witness) -> Iterator[Outcome]:
    yield w.create("a")
    yield w.create("b", shards=3)
    yield w.append("a", batch("one", 1, 100))
    yield w.subscribe("s", "a")
    yield w.append("a", batch("many", 8, 3000))
    yield w.append("b", batch("zstd", 20, 300, keys=5), compression="zstd")
    w.receive("s", "c", 6)
    yield w.ack("s", "c", 3)
    yield w.transact(
        {"a": batch("tx", 2, 500), "b": batch("tx", 3, 500, keys=3)}, ("s", "c"), count=2
    )
    yield w.append("a", batch("roll", 8, 3500))
    yield w.pass_time(1.0)
    yield w.trim("a", w.store.stream("a").tail())
    yield w.append("b", batch("os", 2, 900, keys=2), level="os")
    yield w.append("b", batch("memory", 3, 900, keys=2), level="memory")
    yield w.create("c")
    yield w.delete("b")
    yield w.append("c", batch("last", 2, 3000))


def run(w: Witness) -> None:
    for outcome in script(w):
        must(outcome)


def finish(w: Witness) -> None:
    """Use a recovered store as any other, and see it right again after a clean restart."""
    w.check()
    w.drain()
    if "a" in w.model.streams:
        must(w.append("a", batch(f"after-{w.model.epoch}", 2, 700)))
        w.check()


def fresh(seed: int = 1) -> Witness:
    return Witness(SimEnv(seed=seed))
