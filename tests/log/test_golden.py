"""What was written in format version 1 stays readable, by the store and by a reader of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native.files import posix_files
from hstreamlite.errors import HStreamError
from hstreamlite.testing.simenv import SimEnv
from tests.log.format_reader import (
    CATALOG,
    Entry,
    FormatError,
    Store,
    check_holes,
    crc,
    read_stage,
    read_state,
    read_store,
    read_super,
    unacked,
)
from tests.log.golden import make

Row = dict[str, Any]
EXPECTED = make.load_expected()
each_image = pytest.mark.parametrize("name", make.IMAGES)


def with_boot_id(image: make.Image, boot: bytes) -> make.Image:
    """Return the image as it would be had the machine of this boot written its stage."""
    stage = bytearray(image["STAGE"])
    stage[32:48] = boot
    stage[8:12] = crc(bytes(stage[12:80])).to_bytes(4, "little")
    return image | {"STAGE": bytes(stage)}


def unpack(image: make.Image, directory: Path) -> Path:
    path = directory / "store"
    (path / "segments").mkdir(parents=True)
    for name, content in image.items():
        (path / name).write_bytes(content)
    return path


def durable_rows(name: str) -> dict[str, list[Row]]:
    """Return what is expected without the records that only the mapped stage holds."""
    return {
        stream: [row for row in rows if "stage_only" not in row]
        for stream, rows in EXPECTED[name]["streams"].items()
    }


def all_rows(name: str) -> dict[str, list[Row]]:
    return {
        stream: [{k: v for k, v in row.items() if k != "stage_only"} for row in rows]
        for stream, rows in EXPECTED[name]["streams"].items()
    }


def described(
    record_id: str, time_ms: int, key: str | None, attributes: dict[str, str], payload: Any
) -> Row:
    row: Row = {"id": record_id, "time_ms": time_ms}
    if isinstance(payload, dict):
        row["json"] = payload
    else:
        row["bytes"] = len(payload)
        row["sha256"] = hashlib.sha256(payload).hexdigest()
    if key:
        row["key"] = key
    if attributes:
        row["attributes"] = attributes
    return row


def rows_of(store: hs.Store) -> dict[str, list[Row]]:
    return {
        stream.name: [
            described(str(r.id), r.append_time_ms or 0, r.key, dict(r.attributes), r.payload)
            for r in read_over_gaps(store.stream(stream.name))
        ]
        for stream in store.streams()
    }


def read_over_gaps(stream: hs.Stream) -> Iterator[hs.Record]:
    reader = stream.read()
    while True:
        try:
            yield from reader
        except hs.RecordTrimmed:
            continue
        return


def listed(store: Store) -> dict[str, list[Row]]:
    """Return the rows that the independent reader finds, in append order."""
    state = read_state(store)
    found = {}
    for stream in state.streams.values():
        if stream.archived:
            continue
        entries: list[Entry] = []
        for shard in stream.shards:
            entries += store.records(shard, state.trims.get(shard, 1))
        entries.sort(key=lambda entry: (entry.order, entry.index))
        found[stream.name] = [
            described(e.id, e.time_ms, e.key, e.attributes, e.payload if e.raw else e.json())
            for e in entries
        ]
    return found


@each_image
def test_the_store_reads_what_was_written(name: str, tmp_path: Path) -> None:
    path = unpack(make.load(name), tmp_path)
    with hs.open(path) as store:
        assert rows_of(store) == durable_rows(name)
        store._engine.journal.check_invariants()
        assert not store.recovery.created
        assert store.recovery.clean == (name != "crashed")


@each_image
def test_the_store_resumes_subscriptions_and_producers(name: str, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    with hs.open(unpack(make.load(name), tmp_path)) as store:
        for subscription, ids in expected["unacked"].items():
            got: list[hs.Delivery] = []
            with store.subscription(subscription).consumer("reader") as consumer:
                while len(got) < len(ids):
                    got += consumer.receive(1000, timeout=10)
                got += consumer.receive(1000, timeout=0)
            assert sorted(str(d.id) for d in got) == sorted(ids), subscription
        importer = store.stream("orders").producer(name="importer")
        assert importer.last_sequence == expected["producers"]["importer"]
        imported = [r for r in read_over_gaps(store.stream("orders")) if r.key == "imported"]
        again = importer.submit(b"any", sequence=len(imported)).result()
        assert again == imported[-1].id


def test_the_mapped_stage_is_replayed_in_the_same_boot(tmp_path: Path) -> None:
    image = with_boot_id(make.load("crashed"), posix_files().boot_id())
    with hs.open(unpack(image, tmp_path)) as store:
        assert rows_of(store) == all_rows("crashed")
        assert store.recovery.stage_records > 0


@each_image
def test_opening_leaves_sealed_segments_alone(name: str, tmp_path: Path) -> None:
    image = make.load(name)
    path = unpack(image, tmp_path)
    hs.open(path).close()
    sealed = [n for n in sorted(image) if n.endswith(".seg")]
    for file in sealed[:-1]:
        assert (path / file).read_bytes() == image[file]


def test_the_writer_produces_the_same_bytes() -> None:
    assert make.differences() == []


@each_image
def test_the_independent_reader_lists_the_same(name: str) -> None:
    store = read_store(make.load(name))
    assert listed(store) == durable_rows(name)
    state = read_state(store)
    assert {s: sorted(unacked(state, store, s)) for s in state.subscriptions} == {
        s: sorted(ids) for s, ids in EXPECTED[name]["unacked"].items()
    }
    assert {name: last for (_, name), last in state.producers.items()} == EXPECTED[name][
        "producers"
    ]
    assert all(
        segment.number in state.live for segment in store.segments if segment.number <= state.known
    )


def test_the_independent_reader_replays_the_stage() -> None:
    image = make.load("crashed")
    boot = image["STAGE"][32:48]
    assert listed(read_store(image, boot)) == all_rows("crashed")
    entries = read_stage(image["STAGE"], read_super(image["SUPER"]).uuid, boot)
    flags = [block.flags for _, blocks in entries for block in blocks]
    assert len(entries) > 3
    assert flags.count(1) == 1


def test_the_images_hold_every_structure() -> None:
    closed, crashed, regrouped, salvaged = (read_store(make.load(name)) for name in make.IMAGES)
    frame_flags = {frame.flags for s in (closed, crashed) for g in s.segments for frame in g.frames}
    covers = [s.cover for s in regrouped.segments if s.header.level == 1]
    assert any(cover.last > cover.first for cover in covers)
    assert read_state(salvaged).lost
    with pytest.raises(FormatError):
        check_holes(replace(read_state(salvaged), lost={}), salvaged)
    codecs = {block.codec for blocks in closed.logs.values() for block in blocks}
    assert frame_flags == {0, 1, 2}
    assert codecs == {0, 1, 2}
    assert len(closed.segments) > 1
    assert closed.segments[0].number > 1
    assert crashed.super.checkpoint >> 32 == crashed.segments[-1].number
    assert [s.sealed for s in crashed.segments][-2:] == [True, False]
    assert crashed.super.epoch == 2
    assert len(read_state(closed).streams[2].shards) == 3
    assert closed.super.catalog > 1
    assert closed.logs[CATALOG]


@pytest.mark.parametrize(
    ("file", "offset"),
    [
        ("segments/0000000000000002.seg", 40),
        ("segments/0000000000000002.seg", 4096 + 30),
        ("segments/0000000000000002.seg", 4096 + 64 + 60),
        ("segments/0000000000000002.seg", None),
        ("segments/0000000000000002.seg", -20),
        ("segments/0000000000000007.seg", 4096 + 64 + 60),
    ],
    ids=["segment header", "frame header", "block", "footer", "trailer", "tail"],
)
def test_the_independent_reader_checks_every_structure(file: str, offset: int | None) -> None:
    image = make.load("crashed")
    content = bytearray(image[file])
    if offset is None:
        offset = 10 + int.from_bytes(content[-80:-72], "little")  # where the trailer says
    content[offset] ^= 0x10
    with pytest.raises(FormatError):
        read_store(image | {file: bytes(content)})


def program(env: SimEnv) -> None:
    """Fill a few segments with groups of several frames."""
    store = hs.open("/store", env=env, config=make.CONFIG)
    stream = store.create_stream("s")
    subscription = store.create_subscription("sub", stream="s")
    for number in range(12):
        stream.append_many([make.text("a", number * 10 + i, 300) for i in range(10)])
        stream.append(make.text("b", number, 10), durability="memory")
        env.advance(0.06)
        store.tick()
        with subscription.consumer("c") as consumer:
            consumer.ack(consumer.receive(5))


@pytest.mark.parametrize(
    "crash",
    [
        SimEnv.process_crash,
        partial(SimEnv.power_cut, profile="drop"),
        partial(SimEnv.power_cut, profile="keep"),
    ],
    ids=["process crash", "unsynced lost", "unsynced kept"],
)
def test_both_readers_agree_after_a_crash_at_any_step(crash: Callable[[SimEnv], SimEnv]) -> None:
    env = SimEnv(seed=3)
    program(env)
    for stop in range(0, env.disk.counts().mutations, 3):
        env = SimEnv(seed=3)
        env.disk.stop_at(stop)
        with suppress(HStreamError, OSError):
            program(env)
        env = crash(env)
        image = make.image_of(env) if env.files.exists(make.ROOT) else {}
        has_slot = any(image.get("SUPER", b""))
        store = hs.open("/store", env=env, config=make.CONFIG)
        if has_slot:
            assert listed(read_store(image, env.files.boot_id())) == rows_of(store)
        else:
            assert store.recovery.created
        store.close()
