"""A damaged store opened to be read gives back what verifies, and tells of all else.

Goal: every record whose block is as it was is read under its id; every other is in the range of a
CorruptionError; nothing is written. Method: images damaged anywhere; what is hit is told by
comparing bytes. A segment whose header is gone may be lost as a whole, where no other names it.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite.damaged import DamagedStore
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Witness, small_config
from tests.tools.images import KINDS, Image, Injury, Kind, damaged, image, injuries, touched

Records = dict[tuple[int, int], tuple[str, object]]


def opened(env: SimEnv, **options: bool) -> hs.Store:
    options = {"read_only": True, "accept_damage": True} | options
    return hs.open("/db", config=small_config(), env=env, **options)  # type: ignore[arg-type]


def read(store: hs.Store) -> tuple[Records, set[tuple[int, int]], set[int]]:
    """Return what is there, which records are told to be lost, and which logs may lack more."""
    found: Records = {}
    told: set[tuple[int, int]] = set()
    ends: set[int] = set()
    for info in store.streams():
        reader = store.stream(info.name).read()
        last: dict[int, int] = {}
        before: set[tuple[int, int]] = set()
        ended: set[int] = set()
        while True:
            try:
                for r in reader:
                    assert r.id is not None
                    assert r.id.lsn > last.get(r.id.shard_id, 0)
                    last[r.id.shard_id] = r.id.lsn
                    found[r.id.shard_id, r.id.lsn] = (r.key or "", r.payload)
                break
            except hs.CorruptionError as error:
                (lost,) = error.lost
                if lost.last is None:
                    assert lost.shard not in ended, "told twice"
                    ended.add(lost.shard)
                else:
                    more = {(lost.shard, lsn) for lsn in range(lost.first, lost.last + 1)}
                    assert more.isdisjoint(before), "told twice"
                    before |= more
        told |= before
        ends |= ended
    return found, told, ends


def judge(of: Image, w: Witness) -> None:
    hit = touched(of, w)
    before = w.env.disk.image_hash(), w.env.disk.counts().mutations
    with opened(w.env) as store:
        found, told, ends = read(store)
        assert store.read_only
        engine = store._engine
        assert isinstance(engine, DamagedStore)
        engine.journal.check_invariants()
        catalog_whole = not any(shard >= 1 << 63 for shard, _ in hit)
        lines = store.recovery.lines()
    assert (w.env.disk.image_hash(), w.env.disk.counts().mutations) == before
    kept = {id_: value for id_, value in of.records.items() if id_ not in hit}
    headless = {
        (block.shard, lsn)
        for block in of.blocks
        if w.env.disk.read_all(block.path)[:4096] != of.files[block.path][:4096]
        for lsn in range(block.first, block.last + 1)
    }
    assert found.keys() >= kept.keys() - headless
    assert all(found[id_] == kept[id_] for id_ in kept.keys() & found.keys())
    assert found.keys().isdisjoint(hit)
    assert told.isdisjoint(found)
    if catalog_whole and not headless:
        assert found == kept
    if catalog_whole:
        silent = {(shard, lsn) for shard, lsn in of.records.keys() - found.keys() - told}
        assert {shard for shard, _ in silent} <= ends, "silently skipped"
    if of.records.keys() - found.keys():
        assert len(lines) > 1


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_what_verifies_is_read_and_all_else_is_told(kind: Kind, data: st.DataObject) -> None:
    of = image(kind)
    judge(of, damaged(of, data.draw(injuries(of))))


@pytest.mark.parametrize("kind", KINDS)
def test_every_header_every_footer_and_every_missing_segment(kind: Kind) -> None:
    of = image(kind)
    for path in of.files:
        if not path.endswith(".seg"):
            continue
        size = len(of.files[path])
        judge(of, damaged(of, [Injury("flip", path, 100, 0)]))
        judge(of, damaged(of, [Injury("flip", path, size - 20, 0)]))
        judge(of, damaged(of, [Injury("cut", path, size // 8192 * 4096, size)]))
        w = of.origin.branch(of.origin.env.clone())
        w.env.disk.unlink_raw(path)
        with opened(w.env) as store:
            found, told, ends = read(store)
        gone = {
            (b.shard, lsn)
            for b in of.blocks
            if b.path == path
            for lsn in range(b.first, b.last + 1)
        }
        if any(shard >= 1 << 63 for shard, _ in gone):
            continue
        assert found == {id_: value for id_, value in of.records.items() if id_ not in gone}
        silent = (of.records.keys() & gone) - told
        assert {shard for shard, _ in silent} <= ends


def test_one_superblock_slot_is_enough_and_none_says_salvage() -> None:
    of = image("closed")
    w = damaged(of, [Injury("flip", "/db/SUPER", 40, 0)])
    with opened(w.env) as store:
        assert len(read(store)[0]) > 0
    w = damaged(of, [Injury("zero", "/db/SUPER", 0, 8192)])
    with pytest.raises(hs.CorruptionError, match="hstreamlite salvage"):
        opened(w.env)
    for read_only in (False, True):
        with pytest.raises(hs.CorruptionError, match="hstreamlite salvage") as caught:
            hs.open("/db", env=w.env, read_only=read_only)
        assert "accept_damage" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"read_only": True},
        {"read_only": True, "accept_damage": True},
        {"create": False},
        {"create": True},
    ],
    ids=" ".join,
)
def test_segments_without_a_superblock_are_a_damaged_store(options: dict[str, bool]) -> None:
    w = damaged(image("closed"), [])
    w.env.files.unlink("/db/SUPER")
    with pytest.raises(hs.CorruptionError, match=r"no such file, beside .*hstreamlite salvage"):
        hs.open("/db", config=small_config(), env=w.env, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_catalog_without_its_first_segment_is_damage_to_all(*, read_only: bool) -> None:
    of = image("closed")
    w = damaged(of, [])
    w.env.files.unlink(min(path for path in of.files if path.endswith(".seg")))
    with pytest.raises(hs.CorruptionError, match="records of system log") as caught:
        opened(w.env, read_only=read_only, accept_damage=False)
    assert "accept_damage=True" in str(caught.value)
    (lost,) = caught.value.lost
    assert lost.first == 1


def test_sound_store_reads_whole_with_nothing_told() -> None:
    of = image("closed")
    with opened(damaged(of, []).env) as store:
        assert read(store) == (of.records, set(), set())
        assert [s.name for s in store.subscriptions()] == ["s"]
        with pytest.raises(hs.ReadOnly):
            store.create_stream("new")


def test_refusal_names_both_ways_and_writing_needs_a_salvage() -> None:
    of = image("closed")
    path = min(path for path in of.files if path.endswith(".seg"))
    w = damaged(of, [Injury("flip", path, 100, 0)])
    for read_only in (False, True):
        with pytest.raises(hs.CorruptionError) as caught:
            opened(w.env, read_only=read_only, accept_damage=False)
        assert "read_only=True, accept_damage=True" in str(caught.value)
        assert "hstreamlite salvage" in str(caught.value)
    with pytest.raises(ValueError, match="hstreamlite salvage"):
        opened(w.env, read_only=False)
    with pytest.raises(ValueError, match="hstreamlite salvage"):
        aio.open("/db", accept_damage=True)


def test_store_in_use_is_left_to_its_owner() -> None:
    of = image("closed")
    w = damaged(of, [])
    with hs.open("/db", config=small_config(), env=w.env), pytest.raises(hs.StoreLocked):
        opened(w.env)


@pytest.mark.parametrize("what", ["a segment", "the store"])
def test_files_that_go_while_it_is_open_are_told(what: str) -> None:
    of = image("closed")
    w = damaged(of, [])
    with opened(w.env) as store:
        if what == "the store":
            w.env.disk.rename_raw("/db", "/elsewhere")
        else:
            for path in [path for path in of.files if path.endswith(".seg")]:
                w.env.disk.unlink_raw(path)
        error = hs.StoreReplaced if what == "the store" else hs.CorruptionError
        for _ in range(2):
            with pytest.raises(error):
                list(store.stream("a").read())


def test_a_stream_of_which_nothing_is_left_is_looked_for_by_another_name() -> None:
    w = damaged(image("closed"), [])
    with opened(w.env) as store, pytest.raises(hs.StreamNotFound, match="what is left") as told:
        list(store.stream("orders").read())
    assert "'salvaged-'" in str(told.value)


def test_reader_is_told_file_range_and_ids() -> None:
    of = image("closed")
    block = [b for b in of.blocks if b.shard == 1][5]
    w = damaged(of, [Injury("flip", block.path, block.start + 90, 0)])
    with opened(w.env) as store:
        reader = store.stream("a").read(start=hs.RecordId(1, block.first, 0))
        with pytest.raises(hs.CorruptionError) as caught:
            next(reader)
        assert next(reader).id == hs.RecordId(1, block.last + 1, 0)
        with pytest.raises(hs.CorruptionError):
            list(store.stream("a").read_batches())
    error = caught.value
    assert error.path == block.path
    assert error.offset <= block.start < error.offset + error.length
    assert error.lost == (hs.LostRecords(1, block.first, block.last, "a"),)
