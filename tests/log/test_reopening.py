"""A reopened store goes on where the one before stopped: cases that were once got wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

import hstreamlite as hs
from hstreamlite.env import OpenFlag
from hstreamlite.housekeeping import Housekeeping
from hstreamlite.log.swap import segment_facts
from hstreamlite.testing.crash import Recording
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from tests import effort

SMALL = hs.StoreConfig(
    segment_bytes_min=64 << 10,
    segment_bytes_max=64 << 10,
    frame_bytes=16 << 10,
    eager_bytes=4 << 10,
    batch_bytes_max=4 << 10,
    transaction_bytes_max=32 << 10,
    chunk_bytes=64 << 10,
    stage_bytes=1 << 20,
    prewrite_bytes=8 << 10,
    os_stage_bytes=64 << 10,
    tail_bytes=16 << 10,
)


def open_store(env: SimEnv) -> hs.Store:
    return hs.open("/db", config=SMALL, env=env)


def test_store_rolls_segments_after_replaying_much_of_the_mapped_stage() -> None:
    env = SimEnv(seed=1)
    stream = open_store(env).create_stream("a")
    for number in range(8):
        stream.append(bytes([number]) * 3800, durability="os")
    store = open_store(env.process_crash())
    assert store.recovery.stage_records == 8
    for number in range(8, 40):
        store.stream("a").append(bytes([number]) * 3800)
    assert [r.payload for r in store.stream("a").read()] == [bytes([n]) * 3800 for n in range(40)]


@pytest.mark.parametrize("level", ["os", "memory"])
def test_a_record_too_large_for_the_mapped_stage_joins_a_block_and_is_kept(level: str) -> None:
    """What is acknowledged behind it waits with it for the disk."""
    env = SimEnv(seed=1)
    config = replace(
        SMALL,
        segment_bytes_max=1 << 20,
        frame_bytes=128 << 10,
        eager_bytes=64 << 10,
        batch_bytes_max=64 << 10,
        transaction_bytes_max=128 << 10,
        stage_bytes=2 << 20,
        chunk_bytes=256 << 10,
    )
    store = hs.open("/db", config=config, env=env)
    stream = store.create_stream("a")
    for payload, durability in ((b"small", "os"), (b"x" * 40_000, level), (b"y", "os")):
        stream.append(payload, durability=durability)
    store = hs.open("/db", config=config, env=env.process_crash())
    found = [record.payload for record in store.stream("a").read()]
    assert found == [b"small", b"x" * 40_000, b"y"]


def staged(env: SimEnv, payload: bytes = b"%d" * 300) -> hs.Store:
    store = open_store(env)
    stream = store.create_stream("a")
    for number in range(3):
        stream.append(payload % ((number,) * 300), durability="os")
    return store


def recovered(env: SimEnv) -> list[bytes]:
    store = open_store(env)
    payloads = [record.payload for record in store.stream("a").read()]
    assert store.recovery.stage_records == len(payloads)
    return [payload[:1] for payload in payloads]


def test_the_mapped_stage_is_replayed_up_to_its_first_damaged_entry() -> None:
    env = SimEnv(seed=1)
    staged(env)
    env = env.process_crash()
    stage = env.disk.read_all("/db/STAGE")
    verdicts: dict[tuple[bytes, ...], int] = {}
    for at in range(stage.index(b"0" * 300) - 80, stage.index(b"2" * 300) + 300, 7):
        other = env.clone()
        other.disk.flip("/db/STAGE", at * 8 + at % 8)
        found = tuple(recovered(other))
        verdicts[found] = verdicts.get(found, 0) + 1
    assert set(verdicts) <= {(b"0", b"1", b"2")[:count] for count in range(4)}
    assert min(verdicts[(b"0", b"1", b"2")[:count]] for count in range(3)) > 30
    assert recovered(env.clone()) == [b"0", b"1", b"2"]


def test_the_mapped_stage_of_another_boot_or_store_is_not_replayed() -> None:
    """After a power cut only a part of its pages may be what the dead process stored."""
    env = SimEnv(seed=1)
    staged(env)
    assert recovered(env.power_cut(profile="keep")) == []
    env = SimEnv(seed=1)
    staged(env)
    with hs.open("/other", config=SMALL, env=env) as store:
        store.create_stream("a").append(b"x", durability="os")
        env.disk.copy_raw("/db/STAGE", "/stage")
    open_store(env := env.process_crash()).close()
    env.disk.copy_raw("/stage", "/other/STAGE")
    with hs.open("/other", config=SMALL, env=env.process_crash()) as store:
        assert store.recovery.stage_records == 0
        assert [record.payload for record in store.stream("a").read()] == [b"x"]


def test_producers_log_goes_on_behind_a_snapshot_that_left_it_empty() -> None:
    env = SimEnv(seed=1)
    store = open_store(env)
    with store.create_stream("gone").producer(name="p") as producer:
        for number in range(5):
            producer.submit(b"%d" % number)
            producer.flush()
    store.delete_stream("gone")
    stream = store.create_stream("a")
    for _ in range(40):
        stream.append(bytes(3000))
    stream.trim(before=hs.LATEST)
    store.close()
    store = open_store(env := env.process_crash())
    with store.stream("a").producer(name="q") as producer:
        producer.submit(b"kept")
    store.close()
    store = open_store(env.process_crash())
    assert store.stream("a").producer(name="q").last_sequence == 1


def test_trim_that_is_staged_survives_a_snapshot_taken_before_it_is_applied() -> None:
    env = SimEnv(seed=1)
    store = open_store(env)
    stream = store.create_stream("a")
    ids = [stream.append(b"%d" % number) for number in range(4)]
    engine = store._engine
    pending = engine.trim("a", ids[2])
    house = Housekeeping(engine)
    house.snapshot()
    engine.journal.wait(pending.ticket)
    house.apply_trims()
    assert [r.payload for r in store.stream("a").read()] == [b"2", b"3"]
    store.close()
    store = open_store(env.process_crash())
    assert [r.payload for r in store.stream("a").read()] == [b"2", b"3"]


def test_transaction_tells_ids_in_the_order_of_its_appends_over_several_shards() -> None:
    store = open_store(SimEnv(seed=1))
    pending = store._engine.create_stream("a", shards=4)
    store._engine.journal.wait(pending.ticket)
    with store.transaction() as tx:
        for number in range(12):
            tx.append("a", b"%d" % number, key=f"k{number % 5}")
    found = {record.id: record.payload for record in store.stream("a").read()}
    assert [found[record_id] for record_id in tx.ids["a"]] == [b"%d" % n for n in range(12)]


def test_receive_answers_with_what_lies_behind_a_gap() -> None:
    store = open_store(SimEnv(seed=1))
    stream = store.create_stream("a")
    store.create_subscription("s", stream="a")
    ids = [stream.append(b"%d" % number) for number in range(4)]
    stream.trim(before=ids[2])
    with store.subscription("s").consumer("c") as consumer:
        assert [d.payload for d in consumer.receive(timeout=0)] == [b"2", b"3"]


def test_names_left_by_a_killed_process_are_made_durable_before_they_are_relied_on() -> None:
    """Whichever call a process dies at, the next one's records survive a power cut after it."""
    mutation = 0
    while True:
        env = SimEnv(seed=mutation)
        if not stop(env, mutation, lambda store: store.create_stream("a").append(b"first")):
            break
        env = env.process_crash()
        stream = open_store(env).create_stream("a", exists_ok=True)
        stream.append(b"kept")
        env = env.power_cut(profile="drop")
        payloads = [record.payload for record in open_store(env).stream("a").read()]
        assert payloads[-1:] == [b"kept"], f"killed at mutation {mutation}"
        mutation += 1
    assert mutation > 10


def test_creation_that_is_cut_off_anywhere_is_begun_again() -> None:
    env = SimEnv(seed=1)
    with Recording(env.disk) as recording:
        open_store(env)
    states = [state for step in range(len(recording)) for state in recording.states(step, count=20)]
    for state in states:
        assert open_store(env.after(state.files)).create_stream("a").append(b"first")
    assert len(states) > 200


def test_recovery_of_a_killed_process_survives_a_power_cut_in_its_midst() -> None:
    """A process dies at one call, the power goes at a call of the recovery after it."""
    for killed in range(40):
        cut = 0
        stopped = True
        while stopped:
            env = SimEnv(seed=1)
            open_store(env).create_stream("a").append(b"kept")
            env = env.process_crash()
            stop(env, killed, lambda store: store.stream("a").append(b"more"))
            env = env.process_crash()
            stopped = stop(env, cut, lambda store: None)
            env = env.power_cut(profile="drop")
            payloads = [record.payload for record in open_store(env).stream("a").read()]
            assert payloads[:1] == [b"kept"], f"killed at {killed}, cut at {cut}"
            cut += 1


def test_unsynced_frames_of_a_killed_process_are_durable_before_a_footer_lists_them() -> None:
    """Killed between writing and syncing, the log is sealed by the next process. Of what that one
    has not synced when the power goes, one change is lost, or one is kept."""
    cases = left_unsynced = 0
    for killed in range(0, 40, effort.of(1, brief=5)):
        env = SimEnv(seed=1)
        open_store(env).create_stream("a").append(b"kept")
        env = env.process_crash()
        stop(env, killed, lambda store: store.stream("a").append(b"more"))
        left = env.process_crash()
        left_unsynced += left.disk.counts().unsynced > 0
        cut = 0
        stopped = left.disk.counts().unsynced > 0
        while stopped:
            env = left.clone()
            stopped = stop(env, cut, lambda store: None)
            changes = range(env.disk.counts().unsynced)
            every = (1 << len(changes)) - 1
            for survive in {every, *(1 << n for n in changes), *(every ^ 1 << n for n in changes)}:
                machine = env.clone().power_cut(profile="subset", seed=survive)
                payloads = [record.payload for record in open_store(machine).stream("a").read()]
                assert payloads in ([b"kept"], [b"kept", b"more"]), f"killed at {killed}, cut {cut}"
                cases += 1
            cut += 1
    assert left_unsynced > effort.of(10, brief=1)
    assert cases > effort.of(1000, brief=50)


def stop(env: SimEnv, mutation: int, work: Callable[[hs.Store], object]) -> bool:
    """Work on a store until a mutation; True if it came to that."""
    env.disk.stop_at(mutation)
    with suppress(hs.HStreamError, OSError):
        work(open_store(env))
    return env.disk.stopped


def test_trim_on_a_disk_too_full_to_free_segments_succeeds() -> None:
    env = SimEnv(seed=1)
    store = open_store(env)
    stream = store.create_stream("a")
    for _ in range(40):
        stream.append(bytes(3000))
    env.disk.inject(Fail(ops=Op.ALLOCATE, errno=errno.ENOSPC, from_then_on=True))
    for name in ("b", "c"):
        store.create_stream(name)
    stream.trim(before=hs.LATEST)
    store.delete_stream("a")
    assert [info.name for info in store.streams()] == ["b", "c"]


def test_trim_succeeds_where_unlinking_fails() -> None:
    env = SimEnv(seed=1)
    store = open_store(env)
    stream = store.create_stream("a")
    for _ in range(40):
        stream.append(bytes(3000))
    env.disk.inject(Fail(ops=Op.UNLINK, from_then_on=True))
    stream.trim(before=hs.LATEST)
    assert list(stream.read()) == []


def test_a_clean_store_reports_nothing_discarded_and_a_foreign_file_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = SimEnv(seed=1)
    open_store(env).create_stream("a").append(b"x")
    env = env.process_crash()
    open_store(env).close()
    env = env.process_crash()
    assert open_store(env).recovery.bytes_discarded == 0
    assert "is not a file of this store" not in caplog.text
    env = env.process_crash()
    env.files.close(env.files.open("/db/segments/holiday.jpg", OpenFlag.WRITE | OpenFlag.CREATE))
    open_store(env)
    assert caplog.text.count("holiday.jpg is not a file of this store") == 1
    assert "/db/segments/holiday.jpg" in env.disk.walk("/db")


def test_a_deleted_stream_leaves_no_producer_behind() -> None:
    env = SimEnv(seed=1)
    store = open_store(env)
    for name in ("a", "b"):
        with store.create_stream(name).producer(name="p") as producer:
            producer.submit(b"x")
    kept = len(store._engine.producers.snapshot())
    store.delete_stream("a")
    assert 0 < len(store._engine.producers.snapshot()) < kept
    store.delete_stream("b")
    assert store._engine.producers.snapshot() == []


def test_a_directory_that_another_process_just_made_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = SimEnv()
    mkdir = env.files.mkdir

    def make_before(path: str) -> None:
        monkeypatch.undo()
        mkdir(path)
        mkdir(path)

    monkeypatch.setattr(env.files, "mkdir", make_before)
    hs.open("/db", env=env).close()
    hs.open("/db", env=env, create=False).close()


def test_a_segment_that_holds_records_is_not_dropped_whoever_asks() -> None:
    env = SimEnv(seed=1)
    with open_store(env) as store:
        stream = store.create_stream("a")
        for number in range(60):
            stream.append(b"%d;" % number * 700)
        journal = store._engine.journal
        journal.drop_segments([fact.number for fact in segment_facts(journal)] + [999])
        assert [r.payload for r in stream.read()] == [b"%d;" % n * 700 for n in range(60)]
    with open_store(env) as store:
        assert len(list(store.stream("a").read())) == 60
