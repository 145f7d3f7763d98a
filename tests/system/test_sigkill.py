"""SIGKILL of writing and acking processes: what was acknowledged is there, once, and in order."""

from __future__ import annotations

import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import hstreamlite as hs
from tests import effort
from tests.system.ledger import Ledger, small
from tests.system.workers import Workers

KILLS = effort.of(75, brief=25)
KILLS_OF_A_STORE = 25
REPORTS_MAX = 80
REPORTS_OF_OPENING = 8
DELIVERED = 25_000
PROGRESS_ACKS = 100
ACKS_BETWEEN_KILLS = 1000
SEED = 20
TRANSFORMED = 5_000
TRANSFORM_KILLS = effort.of(40, brief=15)

CAMPAIGNS: dict[str, tuple[list[str], dict[str, object]]] = {
    "sync": (["sync"], small()),
    "os": (["os"], small()),
    "all levels": (["sync", "os", "memory"], small()),
    "default settings": (["os", "sync"], {"progress_acks": 20, "progress_interval": 60}),
}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_nothing_acknowledged_is_lost_by_sigkill(
    tmp_path: Path, name: str, say: Callable[[str], None]
) -> None:
    levels, config = CAMPAIGNS[name]
    random_ = random.Random(SEED)
    total: Counter[str] = Counter()
    with Workers() as workers:
        for number in range(KILLS // KILLS_OF_A_STORE):
            path, ledger = tmp_path / str(number), Ledger()
            for kill in range(KILLS_OF_A_STORE):
                life = ledger.begin()
                worker = workers.start(
                    do="write", path=str(path), life=life, levels=levels, config=config
                )
                most = REPORTS_OF_OPENING if kill % 3 == 1 else REPORTS_MAX
                for words in worker.reports_until(random_.randrange(most)):
                    ledger.take(words)
                assert worker.status == -signal.SIGKILL
                ledger.end("kill")
                # Otherwise the next worker recovers, and every third one is killed about then.
                if kill % 3 == 2 or kill == KILLS_OF_A_STORE - 1:
                    with hs.open(path, config=hs.StoreConfig(**config)) as store:
                        ledger.check(store)
            with hs.open(path) as store:
                assert store.recovery.clean
                ledger.check(store)
                ledger.drain(store)
            total += ledger.counts
    say(f"{name}: {KILLS} kills, {Ledger.tell(total)}")


def test_no_ack_older_than_the_persist_bound_is_forgotten_by_sigkill(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    path = tmp_path / "s"
    random_ = random.Random(SEED)
    config = hs.StoreConfig(progress_acks=PROGRESS_ACKS, progress_interval=60)
    with hs.open(path, config=config) as store:
        stream = store.create_stream("orders")
        stream.append_many([b"%d" % n for n in range(1, DELIVERED + 1)])
        store.create_subscription("s", stream="orders", ack_timeout=3600)
    acked: list[int] = []
    synced, kills, again, most = 0, 0, 0, 0
    with Workers() as workers:
        while len(set(acked)) < DELIVERED:
            worker = workers.start(do="acks", path=str(path), progress_acks=PROGRESS_ACKS)
            limit = len(acked) + ACKS_BETWEEN_KILLS + random_.randrange(200)
            seen: list[int] = []
            bygone, unsynced = set(acked[: max(0, synced - PROGRESS_ACKS)]), len(acked) - synced
            for kind, *group in worker:
                if kind == "seen":
                    seen += map(int, group)
                elif kind == "acked":
                    acked += map(int, group)
                else:
                    synced = len(acked)
                if len(acked) >= limit:
                    worker.kill()
                    limit = sys.maxsize
            assert worker.status in (0, -signal.SIGKILL)
            kills += worker.status != 0
            assert len(set(seen)) == len(seen), "delivered twice to one consumer"
            assert not bygone & set(seen), "persisted acks are forgotten"
            repeated = len(seen) - len(set(seen) - set(acked[: len(acked) - len(seen)]))
            assert repeated <= unsynced + PROGRESS_ACKS
            again, most = again + repeated, max(most, repeated)
    assert set(acked) == set(range(1, DELIVERED + 1)), "records were never delivered"
    with hs.open(path) as store, store.subscription("s").consumer("c") as consumer:
        rest = consumer.receive(DELIVERED, timeout=0)
        assert len(rest) <= len(acked) - synced + PROGRESS_ACKS
    say(f"acks: {kills} kills, {DELIVERED} acked, {again} came again, at most {most} after a kill")


def test_what_is_consumed_and_produced_in_one_transaction_is_exact_after_sigkill(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    path, random_ = tmp_path / "s", random.Random(SEED)
    with hs.open(path) as store:
        numbers = store.create_stream("numbers")
        numbers.append_many([b"%d" % n for n in range(1, TRANSFORMED + 1)])
        store.create_stream("doubled")
        store.create_subscription("s", stream="numbers", ack_timeout=3600)
    told: list[int] = []
    with Workers() as workers:
        for _ in range(TRANSFORM_KILLS):
            worker = workers.start(do="transform", path=str(path), workers=4)
            told += [int(n) for _, n in worker.reports_until(random_.randrange(1, 50))]
            assert worker.status == -signal.SIGKILL
    with hs.open(path) as store:
        doubled = store.stream("doubled")
        found = [record.payload["of"] for record in doubled.read()]
        assert set(told) <= set(found), "what was told to be done is gone"
        assert len(found) < TRANSFORMED, "nothing was left to be killed"
        with store.subscription("s").consumer("c") as consumer:
            while batch := consumer.receive(100, timeout=0):
                with store.transaction() as tx:
                    for number in (int(delivery.payload) for delivery in batch):
                        tx.append("doubled", {"of": number, "is": 2 * number})
                    tx.ack(batch)
        totals = Counter(record.payload["is"] for record in doubled.read())
        assert totals == Counter(range(2, 2 * TRANSFORMED + 1, 2))
        assert sum(totals.elements()) == TRANSFORMED * (TRANSFORMED + 1)
    say(f"transform: {TRANSFORM_KILLS} kills, {len(found)} before the last, totals exact")
