"""A check says "sound" if and only if everything can be read as it was written.

Goal: no damage escapes it, no sound store is slandered, and what it calls lost is exactly what is.
Method: stores crashed at every step, damaged anywhere, read while they are written; what a damaged
byte costs is told by an independent reader of the undamaged image.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from hstreamlite.errors import NotAStore, StoreVersionUnsupported
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import Witness
from hstreamlite.tools.check import check
from hstreamlite.tools.findings import CheckReport, Lost
from tests.log import format_reader
from tests.log.scripted import batch, fresh, must, run, script
from tests.log.test_recovery_states import examine, mutations, stopped_at
from tests.tools.images import (
    KINDS,
    Image,
    Injury,
    Kind,
    damaged,
    image,
    injuries,
    touched,
)

PAGE = 4096


def look(w: Witness) -> CheckReport | None:
    """Check; None where there is no store, or one of another version."""
    try:
        return check(w.env, "/db")
    except (NotAStore, StoreVersionUnsupported):
        return None


def segments(of: Image) -> list[str]:
    return sorted(path for path in of.files if path.endswith(".seg"))


def lost(report: CheckReport) -> set[tuple[int, int]]:
    return {
        (entry.shard, lsn)
        for damage in report.damage
        for entry in damage.lost
        if isinstance(entry, Lost)
        for lsn in range(entry.first, entry.end)
    }


def test_store_crashed_anywhere_is_sound() -> None:
    sound = 0
    for mutation in mutations():
        w = stopped_at(mutation)
        if w is None:
            continue
        for cut in range(3):
            other = w.branch(w.env.clone())
            other.restart("process" if cut == 2 else "power", seed=cut, reopen=False)
            report = look(other)
            assert report is None or report.sound, (mutation, cut, list(report.lines()))
            sound += report is not None
    assert sound > 200


def test_store_in_use_is_sound_at_every_step() -> None:
    w = fresh()
    for step, outcome in enumerate(script(w)):
        must(outcome)
        report = check(w.env, "/db")
        assert report.sound, (step, list(report.lines()))


@pytest.mark.parametrize("kind", KINDS)
def test_check_changes_nothing(kind: Kind) -> None:
    of = image(kind)
    w = damaged(of, [Injury("flip", segments(of)[0], 9000, 0)])
    before, mutations_before = w.env.disk.image_hash(), w.env.disk.counts().mutations
    check(w.env, "/db")
    assert w.env.disk.image_hash() == before
    assert w.env.disk.counts().mutations == mutations_before


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_damage_is_found_and_costs_what_the_report_says(kind: Kind, data: st.DataObject) -> None:
    of = image(kind)
    done = data.draw(injuries(of))
    w = damaged(of, done)
    report = check(w.env, "/db")
    hit = touched(of, w)
    cost = hit & of.records.keys()
    told = lost(report)
    assert not told & (of.records.keys() - hit), "called lost what is there"
    assert all(line for line in report.lines())
    if own_logs_whole(hit):
        assert told <= cost
        if all(damage.bounded for damage in report.damage):
            assert told == cost
    if report.sound:
        assert not cost
        assert examine(w) == "intact"


def test_a_damaged_header_is_not_believed_where_the_footer_tells() -> None:
    of = image("regrouped")
    newest = segments(of)[0]
    last = max((block for block in of.blocks if block.path == newest), key=lambda b: b.start)
    # Bit 1 of the LSN: it says that it goes on where the footer lets the log end.
    w = damaged(of, [Injury("flip", newest, last.start + 16, 1)])
    cost = touched(of, w)
    assert len(cost) == last.last - last.first + 1 == 2
    assert lost(check(w.env, "/db")) == cost


def own_logs_whole(hit: set[tuple[int, int]]) -> bool:
    """The catalog is undamaged, so that every shard is known to be some stream's."""
    return not any(shard >= 1 << 63 for shard, _ in hit)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_missed(kind: Kind) -> None:
    of = image(kind)
    for path in of.files:
        if not path.endswith((".seg", "SUPER")):
            continue
        w = of.origin.branch(of.origin.env.clone())
        w.env.disk.unlink_raw(path)
        report = check(w.env, "/db")
        assert not report.sound
        assert any(damage.path == path for damage in report.damage)
        gone = {
            (block.shard, lsn)
            for block in of.blocks
            if block.path == path
            for lsn in range(block.first, block.last + 1)
        }
        assert lost(report) <= gone
        if own_logs_whole(gone) and all(damage.bounded for damage in report.damage):
            assert lost(report) == gone & of.records.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_and_foreign_files_are_found(kind: Kind) -> None:
    of = image(kind)
    stranger = Witness(SimEnv(seed=99))
    run(stranger)
    stranger.restart("close", reopen=False)
    theirs = next(path for path in stranger.env.disk.walk("/db") if path.endswith(".seg"))
    alien = stranger.env.disk.read_all(theirs)
    paths = segments(of)
    for path, other in pairwise(paths):
        swapped = of.origin.branch(of.origin.env.clone())
        swapped.env.disk.rename_raw(path, "/db/aside")
        swapped.env.disk.rename_raw(other, path)
        swapped.env.disk.rename_raw("/db/aside", other)
        report = check(swapped.env, "/db")
        assert {damage.path for damage in report.damage} >= {path, other}
        assert lost(report) == set()
        foreign = of.origin.branch(of.origin.env.clone())
        foreign.env.disk.overwrite(path, 0, alien[:PAGE])
        report = check(foreign.env, "/db")
        assert any(damage.path == path for damage in report.damage)


@pytest.mark.parametrize("kind", KINDS)
def test_file_that_the_device_cannot_read_is_damage_like_any_other(kind: Kind) -> None:
    of = image(kind)
    w = of.origin.branch(of.origin.env.clone())
    path = segments(of)[1]
    w.env.disk.inject(Fail(ops=Op.PREAD, path=path.rpartition("/")[2], from_then_on=True))
    report = check(w.env, "/db")
    assert path in {damage.path for damage in report.damage}
    gone = {
        (block.shard, lsn)
        for block in of.blocks
        if block.path == path
        for lsn in range(block.first, block.last + 1)
    }
    if own_logs_whole(gone):
        assert lost(report) == gone & of.records.keys()


def test_report_names_the_files_that_a_damaged_segment_replaced() -> None:
    w = fresh()
    names = ("a", "b", "c", "d")
    for name in names:
        must(w.create(name))
    for number in range(12):
        for name in names:
            must(w.append(name, batch(f"{name}{number}", 4, 1500)))
    w.restart("close")
    regrouper = w.store._ticker.house.regrouper
    regrouper._free_segments = lambda: None
    while regrouper.step(now=True):
        pass
    w.restart("process", reopen=False)
    report = check(w.env, "/db")
    assert report.sound
    assert report.notes == []
    new = next(path for path in w.env.disk.walk("/db") if "/segments/000000008" in path)
    w.env.disk.flip(new, 8 * (PAGE + 200))
    report = check(w.env, "/db")
    assert any(f"1.seg, in whose place {new} stands" in note for note in report.notes)


def test_report_says_where_more_may_be_lost_than_it_can_name() -> None:
    w = fresh()
    must(w.create("a"))
    for number in range(4):
        must(w.append("a", batch(f"{number}", 2, 300)))
    w.restart("process", reopen=False)
    disk = w.env.disk
    files = {path.removeprefix("/db/"): disk.read_all(path) for path in disk.walk("/db")}
    segment = format_reader.read_store(files).segments[-1]
    row = next(row for row, block in segment.blocks if (block.shard, block.seq) == (1, 3))
    frame = row.off8 * 8 // PAGE * PAGE
    disk.zero_range(f"/db/segments/{segment.number:016x}.seg", frame, PAGE)
    report = check(w.env, "/db")
    text = list(report.lines())
    assert any("stream 'a': records 1-3 to 1-4 unreadable" in line for line in text)
    assert any(line.endswith("more records may be lost there than can be told") for line in text)
    assert any(not fact["bounded"] and fact["lost"] for fact in report.facts()["damage"])


def test_report_names_stream_ids_file_and_what_to_do() -> None:
    of = image("closed")
    block = next(b for b in of.blocks if (b.shard, b.first) in of.records)
    report = check(damaged(of, [Injury("flip", block.path, block.start + 80, 1)]).env, "/db")
    text = "\n".join(report.lines())
    where = f"{block.path} bytes {block.start}-"
    assert (block.shard, block.first) == (block.shard, block.last) == (1, 1)
    assert f"stream 'a': record 1-1 unreadable: {where}" in text
    assert "hstreamlite salvage /db " in text
    assert report.facts()["damage"][0]["lost"] == [
        {"stream": "a", "log": None, "shard": 1, "first": 1, "last": 1, "sure": True}
    ]
