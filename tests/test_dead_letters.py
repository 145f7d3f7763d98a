"""Dead letters where something is in the way: crashes, a full disk, damage, a stream that is gone.

What holds in all of it: a record is unacked in its stream, or it is one dead letter, never both and
never neither.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite import burial
from hstreamlite.letters import dead_letter
from hstreamlite.testing.crash import Recording
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from tests import effort

CONFIG = small_config()


def opened(env: SimEnv, **options: Any) -> hs.Store:
    return hs.open("/db", env=env, config=small_config(**options))


def dying(store: hs.Store, *, records: int = 10, size: int = 100, **options: Any) -> hs.Consumer:
    """Return the one consumer of a stream of so many records, which die of their first release."""
    orders = store.create_stream("orders")
    store.create_stream("dead")
    for i in range(records):
        orders.append(b"%d" % i + b"." * size, key="k", durability="memory")
    store.sync()
    options = {"mode": "shared", "max_attempts": 1, "dead_letter": "dead"} | options
    return store.create_subscription("billing", stream="orders", **options).consumer("w")


def number(record: hs.Record) -> int:
    return int(bytes(record.payload).split(b".")[0])  # type: ignore[arg-type]


def dead(store: hs.Store) -> list[int]:
    return [number(record) for record in store.stream("dead").read()]


def epitaph(record: hs.Record) -> str:
    return f"{number(record)} {record.attributes['hstreamlite-dead-reason']}"


def pass_time(store: hs.Store, env: SimEnv, seconds: float = 1.0) -> None:
    for _ in range(4):
        store.tick()
        env.advance(seconds / 4)
    store.tick()
    store.sync()


def stats(store: hs.Store) -> hs.GroupStats:
    return store.stats().subscriptions["billing"]


def test_a_crash_at_any_step_leaves_each_record_in_one_place() -> None:
    env = SimEnv(seed=3)
    with Recording(env.disk) as recording:
        store = opened(env)
        consumer = dying(store, records=9, max_attempts=2, size=1000)
        begun = recording.position
        first = consumer.receive(9)
        consumer.ack(first[0])
        consumer.release(first[1:])
        pass_time(store, env, 0.2)
        second = consumer.receive(5)
        pass_time(store, env, 0.2)
        consumer.ack(second[2])
        consumer.release(second[:2], reason="bad")
        pass_time(store, env, 0.2)
        consumer.release(second[2:])
        pass_time(store, env, 0.2)
        assert sorted(dead(store)) == [1, 2, 4, 5]
    seen: Counter[tuple[str, ...]] = Counter()
    for step in range(begun, len(recording), effort.of(1, brief=5)):
        for state in recording.states(step, 2):
            after = env.after(state.files)
            with opened(after) as store:
                pass_time(store, after)
                consumer = store.subscription("billing").consumer("w")
                alive = [number(delivery) for delivery in consumer.receive(100)]
                graves = dead(store)
                assert len(set(graves)) == len(graves), f"{state}: {graves}"
                assert not set(graves) & set(alive), f"{state}: {graves} and {alive}"
                assert set(graves) | set(alive) >= {1, 2, 5, 6, 7, 8}, f"{state}: lost"
                seen[tuple(sorted(map(epitaph, store.stream("dead").read())))] += 1
    assert set(seen) >= {
        (),
        ("1 restart", "2 restart", "3 restart", "4 restart", "5 restart"),
        ("1 bad", "2 bad", "4 restart", "5 restart"),
        ("1 bad", "2 bad", "4 released", "5 released"),
    }
    assert sum(seen.values()) >= effort.of(250, brief=40)


def test_a_record_that_kills_its_process_ends_as_a_dead_letter() -> None:
    env = SimEnv(seed=1)
    store = opened(env)
    dying(store, records=1, max_attempts=3)
    for attempt in (1, 2, 3):
        consumer = store.subscription("billing").consumer(f"worker-{attempt}")
        assert [delivery.attempt for delivery in consumer.receive(10)] == [attempt]
        env = env.process_crash()
        store = opened(env)
    pass_time(store, env)
    assert dead(store) == [0]
    (letter,) = store.stream("dead").read()
    assert letter.attributes["hstreamlite-dead-reason"] == "restart"
    assert letter.attributes["hstreamlite-dead-attempts"] == "3"
    assert store.subscription("billing").consumer("w").receive(10, timeout=0) == ()


KILLED = """
import asyncio, os, signal, sys
import hstreamlite as hs

async def main():
    async with hs.aio.open(sys.argv[1]) as store:
        async with store.subscription("billing").consumer("w") as consumer:
            (delivery,) = await consumer.receive(timeout=30)
            print(delivery.attempt, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_record_that_kills_a_worker_of_asyncio_ends_as_a_dead_letter(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        dying(store, records=1, max_attempts=2).close()
    told = [
        subprocess.run(
            [sys.executable, "-c", KILLED, tmp_path / "s"], capture_output=True, check=False
        ).stdout
        for _ in range(2)
    ]
    assert told == [b"1\n", b"2\n"]
    with hs.open(tmp_path / "s") as store, store.stream("dead").read(follow=True) as reader:
        assert next(reader).attributes["hstreamlite-dead-attempts"] == "2"


def test_a_full_disk_keeps_the_dead_waiting(caplog: pytest.LogCaptureFixture) -> None:
    env = SimEnv(seed=2, capacity=4 << 20)
    store = opened(env)
    consumer = dying(store, records=20, size=3000)
    held = consumer.receive(20)
    filler = store.create_stream("filler")
    with pytest.raises(hs.StorageFull):
        for _ in range(10_000):
            filler.append(b"x" * 3000)
    with caplog.at_level(logging.WARNING, "hstreamlite"):
        consumer.release(held)
        for _ in range(5):
            store.tick()
            env.advance(1.0)
    told = [
        record.getMessage() for record in caplog.records if "dead-letter" in record.getMessage()
    ]
    assert len(told) == 1, "one warning, however often it is tried"
    assert "'billing'" in told[0]
    assert "'dead'" in told[0]
    progress = {r.getMessage() for r in caplog.records if "progress of" in r.getMessage()}
    assert len(progress) <= 1, "what is asked for does not grow with each try"
    assert (stats(store).doomed, stats(store).buried) == (20, 0)
    assert "No room" in stats(store).burial_failure
    assert stats(store).blocked.startswith("doomed records cannot be moved: No room ")
    store.delete_stream("filler")
    pass_time(store, env, 30)
    assert (stats(store).doomed, stats(store).buried, stats(store).burial_failure) == (0, 20, "")
    assert stats(store).blocked == "no records"
    assert dead(store) == list(range(20))
    store.close()


@pytest.mark.parametrize("filling", [7, 8])
def test_as_many_die_as_the_disk_has_room_for_and_the_others_later(filling: int) -> None:
    env = SimEnv(seed=2, capacity=4 << 20)
    with opened(env) as store:
        consumer = dying(store, records=20, size=3000)
        held = consumer.receive(20)
        filler = store.create_stream("filler")
        with pytest.raises(hs.StorageFull):
            for _ in range(1000):
                filler.append_many([b"x" * 3000] * filling)
        consumer.release(held)
        store.tick()
        moved = stats(store).buried
        assert 0 < moved < 20, "what is too large in one piece is tried in smaller ones"
        assert stats(store).doomed == 20 - moved
        assert "No room" in stats(store).burial_failure
        assert dead(store) == list(range(moved))
        assert consumer.receive(20, timeout=0) == ()
        store.delete_stream("filler")
        pass_time(store, env, 30)
        assert (stats(store).doomed, stats(store).buried, stats(store).burial_failure) == (
            0,
            20,
            "",
        )
        assert dead(store) == list(range(20))


def test_damage_holds_only_the_damaged_records_back(caplog: pytest.LogCaptureFixture) -> None:
    env = SimEnv(seed=2)
    with opened(env) as store:
        consumer = dying(store, records=12, size=3000)
        assert len(consumer.receive(12)) == 12
    for path in env.disk.walk("/db"):
        at = env.disk.read_all(path).find(b"4.......") if path.endswith(".seg") else -1
        if at >= 0:
            env.disk.flip(path, (at + 100) * 8)
            break
    with caplog.at_level(logging.WARNING, "hstreamlite"), opened(env) as store:
        pass_time(store, env, 3)
        assert dead(store) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11], "a block holds one record"
        assert stats(store).doomed == 1
        assert "CRC" in stats(store).burial_failure
        assert sum("dead-letter" in record.getMessage() for record in caplog.records) == 1


def test_what_is_trimmed_before_it_is_moved_is_a_gap() -> None:
    env = SimEnv(seed=2)
    with opened(env) as store:
        consumer = dying(store, records=10)
        held = consumer.receive(10)
        store.delete_stream("dead", force=True)
        consumer.release(held)
        pass_time(store, env)
        store.stream("orders").trim(before=held[7].id)
        store.create_stream("dead")
        pass_time(store, env, 3)
        assert dead(store) == [7, 8, 9]
        (gap,) = consumer.gaps()
        assert (gap.records, gap.undelivered) == (7, 0)
        assert (stats(store).doomed, stats(store).unacked, stats(store).buried) == (0, 0, 3)


def test_a_record_too_large_for_a_dead_letter_waits_for_a_larger_limit() -> None:
    env = SimEnv(seed=2)
    with opened(env) as store:
        consumer = dying(store, records=3, size=3900, max_attempts=1)
        store.stream("orders").append(b"3")
        consumer.release(consumer.receive(10))
        pass_time(store, env, 3)
        assert dead(store) == [3]
        assert stats(store).doomed == 3
        assert "batch_bytes_max (4096)" in stats(store).burial_failure
    with opened(env, batch_bytes_max=8 << 10) as store:
        pass_time(store, env, 3)
        assert sorted(dead(store)) == [0, 1, 2, 3]


def test_many_that_die_at_once_move_in_pieces() -> None:
    env = SimEnv(seed=2)
    with opened(env) as store:
        consumer = dying(store, records=3000, size=50)
        consumer.release(consumer.receive(3000))
        pass_time(store, env, 3)
        assert dead(store) == list(range(3000))
        assert stats(store).doomed == 0


def test_a_record_that_is_acked_while_it_is_copied_does_not_die(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = SimEnv(seed=2)
    with opened(env) as store:
        consumer = dying(store, records=5)
        held = consumer.receive(5)

        def copied_late(record: hs.Record, **options: Any) -> hs.Record:
            if number(record) == 3:
                assert consumer.ack(held[3]) == hs.AckResult(1, 0, 0)
            return dead_letter(record, **options)

        monkeypatch.setattr(burial, "dead_letter", copied_late)
        consumer.release(held)
        pass_time(store, env)
        assert dead(store) == [0, 1, 2, 4]
        assert store.subscription("billing").lag().unacked == 0


def test_a_subscription_that_is_deleted_takes_its_doomed_with_it() -> None:
    env = SimEnv(seed=2)
    with opened(env) as store:
        consumer = dying(store)
        consumer.release(consumer.receive(10))
        store.delete_subscription("billing", force=True)
        pass_time(store, env)
        assert dead(store) == []
        assert len(list(store.stream("orders").read())) == 10


@pytest.mark.parametrize("pieces", [True, False])
def test_a_crash_at_any_step_of_a_redrive_brings_each_letter_back_once(pieces: bool) -> None:
    env = SimEnv(seed=5)
    most = (32 if pieces else 256) << 10
    with Recording(env.disk) as recording:
        store = opened(env, transaction_bytes_max=most)
        consumer = dying(store, records=40, size=900)
        consumer.release(consumer.receive(40))
        pass_time(store, env)
        assert len(dead(store)) == 40
        begun = recording.position
        assert store.subscription("billing").redrive(limit=7) == 7
        assert store.subscription("billing").redrive() == 33
    back: Counter[int] = Counter()
    for step in range(begun, len(recording), effort.of(1, brief=3)):
        for state in recording.states(step, 4):
            with opened(env.after(state.files), transaction_bytes_max=most) as store:
                found = [number(record) for record in store.stream("orders").read()]
                back[len(found) - 40] += 1
                store.subscription("billing").redrive()
                found = [number(record) for record in store.stream("orders").read()]
                assert Counter(found[40:]) == Counter(range(40)), state
    assert {0, 7, 40} <= set(back), back
    assert (len(back) > 3) == pieces, "the second redrive takes several frames"


def test_damaged_letters_are_told_once_the_others_are_back() -> None:
    env = SimEnv(seed=2)
    with opened(env) as store:
        consumer = dying(store, records=12, size=3000)
        for delivery in consumer.receive(12):
            delivery.release()
            pass_time(store, env)
        store.stream("orders").trim(before=hs.LATEST)
    for path in env.disk.walk("/db"):
        if path.endswith(".seg"):
            at = env.disk.read_all(path).rfind(b"4.......")
            if at >= 0:
                env.disk.flip(path, (at + 100) * 8)
    with opened(env) as store:
        subscription = store.subscription("billing")
        with pytest.raises(hs.CorruptionError, match="CRC"):
            subscription.redrive()
        found = [number(record) for record in store.stream("orders").read()]
        assert 4 not in found
        assert len(found) == len(set(found)) >= 8
        assert subscription.redrive() == 0
