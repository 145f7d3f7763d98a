"""A salvage saves every record whose block verifies, under its id, and nothing else.

Goal: the new store opens and is sound, readers meet a gap at what is lost, no crash or full disk
leaves half of one. Method: images damaged anywhere; what is hit is told by comparing bytes.
"""

from __future__ import annotations

import errno
from functools import partial

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite._native import ffi, lib
from hstreamlite.errors import CorruptionError, HStreamError, RecordTrimmed, StorageFull
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import small_config
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from hstreamlite.tools.segments import inspecting
from tests.log import format_reader
from tests.log.scripted import batch, fresh, must
from tests.tools.images import (
    KINDS,
    Injury,
    Kind,
    damaged,
    discard,
    image,
    injuries,
    replaced,
    segments,
    touched,
)

Records = dict[tuple[int, int], tuple[str, object]]


def read(store: hs.Store) -> tuple[Records, int]:
    """Return what is there, and how many gaps were met."""
    found: Records = {}
    gaps = 0
    for info in store.streams():
        reader = store.stream(info.name).read()
        while True:
            try:
                for r in reader:
                    assert r.id is not None
                    found[r.id.shard_id, r.id.lsn] = (r.key or "", r.payload)
                break
            except RecordTrimmed:
                gaps += 1
    return found, gaps


def opened(env: SimEnv, path: str) -> hs.Store:
    return hs.open(path, config=small_config(), env=env, create=False)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_what_verifies_is_saved_and_nothing_else(kind: Kind, data: st.DataObject) -> None:
    of = image(kind)
    w = damaged(of, data.draw(injuries(of)))
    hit = touched(of, w)
    before = {path: w.env.disk.read_all(path) for path in of.files if path.endswith(".seg")}
    report = salvage(w.env, "/db", "/new")
    assert {path: w.env.disk.read_all(path) for path in before} == before
    assert check(w.env, "/new").sound
    kept = {id_: value for id_, value in of.records.items() if id_ not in hit}
    with opened(w.env, "/new") as store:
        found, _ = read(store)
        assert found.items() >= kept.items()
        assert len(found) == report.records == report.source.records
        if report.source.own_logs_sound:
            assert found == kept
        for info in store.streams():
            store.stream(info.name).append(b"goes on")
        again, _ = read(store)
        assert len(again) == len(found) + len(store.streams())
    with opened(w.env, "/new") as store:
        assert read(store)[0] == again


def test_reader_and_consumer_are_told_of_the_gap() -> None:
    of = image("closed")
    block = [b for b in of.blocks if b.shard == 1][5]
    w = damaged(of, [Injury("flip", block.path, block.start + 90, 0)])
    salvage(w.env, "/db", "/new")
    with opened(w.env, "/new") as store:
        reader = store.stream("a").read()
        got = []
        with pytest.raises(RecordTrimmed):
            got.extend(r.id.lsn for r in iter(reader.__next__, None) if r.id and not got.append(r))
        assert len(read(store)[0]) == len(of.records) - (block.last - block.first + 1)
        assert [s.name for s in store.subscriptions()] == ["s"]


def test_salvage_crashed_or_failed_at_every_call_leaves_the_whole_or_nothing() -> None:
    of = image("closed")
    block = [b for b in of.blocks if b.shard == 1][5]
    injury = Injury("flip", block.path, block.start + 90, 0)
    whole = absent = mutation = 0
    while True:
        w = damaged(of, [injury])
        w.env.disk.stop_at(w.env.disk.counts().mutations + mutation)
        try:
            salvage(w.env, "/db", "/new")
        except (HStreamError, OSError):
            assert w.env.disk.stopped
        ended = not w.env.disk.stopped
        env = w.env.power_cut(seed=mutation)
        if env.files.exists("/new"):
            assert check(env, "/new").sound
            whole += 1
        else:
            absent += 1
            discard(env, "/new.partial")
            salvage(env, "/db", "/new")
            assert not [path for path in env.disk.walk("/") if ".partial" in path]
        if ended:
            break
        mutation += 5
    print(f"crashed salvages: whole {whole}, not there {absent}")
    assert absent > 5


def test_full_disk_leaves_nothing() -> None:
    of = image("closed")
    w = damaged(of, [])
    space = Op.PWRITE | Op.ALLOCATE | Op.MKDIR
    w.env.disk.inject(Fail(ops=space, path="/new", errno=errno.ENOSPC, from_then_on=True))
    with pytest.raises((StorageFull, CorruptionError)):
        salvage(w.env, "/db", "/new")
    w.env.disk.clear_faults()
    assert not w.env.files.exists("/new")
    assert not [path for path in w.env.disk.walk("/") if ".partial" in path]


def test_block_in_a_cut_frame_of_a_segment_without_header_is_saved() -> None:
    w = fresh()
    must(w.create("a", shards=3))
    must(w.append("a", batch("early", 3, 200)))
    must(w.append("a", batch("one frame", 12, 300, keys=6)))
    w.restart("process", reopen=False)
    disk = w.env.disk
    files = {path.removeprefix("/db/"): disk.read_all(path) for path in disk.walk("/db")}
    segment = format_reader.read_store(files).segments[-1]
    (first, saved), (second, _) = segment.blocks[-2:]
    assert second.off8 * 8 - first.off8 * 8 < first.length + 8, "not in one frame"
    path = f"/db/segments/{segment.number:016x}.seg"
    disk.truncate_raw(path, second.off8 * 8 + 20)
    disk.flip(path, 8 * 100)
    report = salvage(w.env, "/db", "/new")
    with opened(w.env, "/new") as store:
        found, _ = read(store)
    assert {(saved.shard, saved.seq + i) for i in range(saved.count)} <= found.keys()
    assert any("cannot be told" in line for line in report.lines())


def test_shards_without_a_name_get_one() -> None:
    of = image("closed")
    injured = [Injury("zero", b.path, b.start, b.end) for b in of.blocks if b.shard == 1 << 63]
    w = damaged(of, injured)
    report = salvage(w.env, "/db", "/new")
    assert "salvaged-1" in report.invented
    with opened(w.env, "/new") as store:
        assert read(store)[0].items() >= of.records.items()


def test_records_in_a_file_and_in_those_it_replaced_are_saved_once() -> None:
    """The file has no header, and one of the others is gone: all that are there are read."""
    env = replaced()
    with opened(env.clone(), "/db") as store:
        expected, _ = read(store)
    regrouped = [path for path in segments(env) if int(path[-20:-4], 16) >= LEVEL_1]
    env.disk.flip(regrouped[0], 30 * 8)
    env.disk.unlink_raw(segments(env)[1])
    salvage(env, "/db", "/new")
    assert check(env, "/new").sound
    with opened(env, "/new") as store:
        assert read(store) == (expected, 0)


def test_a_block_that_is_rejected_twice_is_one_damage() -> None:
    of = image("closed")
    block = of.blocks[0]
    with inspecting(of.origin.env, block.path) as inspection:
        lib.hsl_inspect_expect(inspection.native, ffi.new("struct hsl_inspect_want *"))
        step = partial(lib.hsl_inspect_step, inspection.native, 1 << 20, ffi.new("int32_t *"))
        while step() == lib.HSL_AGAIN:
            pass
        before = lib.hsl_inspect_ranges(inspection.native, ffi.NULL, 0)
        for _ in range(2):
            lib.hsl_inspect_reject(inspection.native, block.start)
        assert lib.hsl_inspect_finish(inspection.native) == lib.HSL_OK
        assert lib.hsl_inspect_ranges(inspection.native, ffi.NULL, 0) == before + 1
