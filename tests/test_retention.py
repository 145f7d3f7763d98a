"""What retention keeps for the subscriptions that protect a stream, and what it does not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config

BACKLOG = 5.0


class Machine:
    """A store in which time passes."""

    def __init__(self) -> None:
        self.env = SimEnv(seed=1)
        config = small_config(retention_interval=1.0)
        self.store = hs.open("/db", config=config, env=self.env)

    def old(self, name: str, count: int = 6) -> None:
        """Append records, and let all of them grow older than the backlog."""
        self.store.stream(name).append_many([b"%d" % number for number in range(count)])
        self.age()

    def age(self) -> None:
        for _ in range(round(BACKLOG) + 3):
            self.env.advance(1.0)
            self.store.tick()

    def left(self, name: str) -> list[bytes]:
        return [record.payload for record in self.store.stream(name).read()]

    def take(self, name: str, count: int) -> None:
        """Acknowledge so many records."""
        with self.store.subscription(name).consumer("c") as consumer:
            consumer.ack(list(consumer.receive(count, timeout=0)))


def test_a_protecting_subscription_keeps_what_it_has_not_acknowledged() -> None:
    m = Machine()
    m.store.create_stream("a", backlog=BACKLOG, protect=["billing", "audit"])
    m.store.create_stream("plain", backlog=BACKLOG)
    for name in ("billing", "audit", "other"):
        m.store.create_subscription(name, stream="a")
    for name in ("a", "plain"):
        m.old(name)
    assert m.left("plain") == []
    assert m.left("a") == [b"0", b"1", b"2", b"3", b"4", b"5"]
    m.take("billing", 4)
    m.take("audit", 2)
    m.age()
    assert m.left("a") == [b"2", b"3", b"4", b"5"]
    m.store.delete_subscription("audit")
    m.age()
    assert m.left("a") == [b"4", b"5"]
    m.take("billing", 6)
    m.age()
    assert m.left("a") == []


@pytest.mark.parametrize("named", ["nobody", "of another stream"])
def test_a_name_that_no_subscription_of_the_stream_has_protects_nothing(named: str) -> None:
    m = Machine()
    m.store.create_stream("a", backlog=BACKLOG, protect=["billing"])
    m.store.create_stream("b", backlog=BACKLOG)
    if named != "nobody":
        m.store.create_subscription("billing", stream="b")
    for name in "ab":
        m.old(name)
        assert m.left(name) == []


def test_an_explicit_trim_wins_over_protection() -> None:
    m = Machine()
    stream = m.store.create_stream("a", backlog=BACKLOG, protect=["billing"])
    m.store.create_subscription("billing", stream="a")
    m.old("a")
    stream.trim(before=hs.LATEST)
    assert m.left("a") == []


def test_a_snapshot_beside_a_drop_names_no_file_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=64 << 10, regroup=False)
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("a")
        for _ in range(4):
            stream.append(bytes(50_000))
        house, journal = store._ticker.house, store._engine.journal
        house.snapshot()  # so that nothing of the store's own keeps the segments
        other = threading.Thread(target=house.snapshot)
        drop = journal.drop_segments
        gone: list[int] = []

        def drop_late(numbers: Sequence[int]) -> None:
            other.start()
            other.join(0.5)  # it waits for the files to be gone, or is done before that
            gone.extend(numbers)
            drop(numbers)

        monkeypatch.setattr(journal, "drop_segments", drop_late)
        newest = stream.tail()
        assert newest is not None
        stream.trim(before=newest)
        other.join()
        assert gone
    with hs.open(tmp_path / "s", config=config) as store:
        assert [record.id for record in store.stream("a").read()] == [newest]
