"""Whatever segment files are gone, nothing that was kept goes without a word.

Goal: what is left and what is said to be lost, or may be, is together all that was written and not
trimmed; a check, a salvage and a store opened damaged agree on both; a dropped file is no alarm.
Method: random lives of a store, then any of its segment files removed; the model is what the whole
store shows.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from hstreamlite import LATEST
from hstreamlite.housekeeping import Housekeeping
from hstreamlite.log.journal import CATALOG
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import Witness
from hstreamlite.tools.check import check
from hstreamlite.tools.findings import MISSING, CheckReport, Lost, OwnLost
from hstreamlite.tools.salvage import salvage
from tests.log.format_reader import read_store
from tests.log.scripted import batch, fresh, must
from tests.tools import test_damaged_open as damaged_open
from tests.tools.images import segments
from tests.tools.test_check import lost
from tests.tools.test_salvage import Records, opened, read

NAMES = ("a", "b", "c", "d")


class Step(NamedTuple):
    """One thing that happens to a store; what cannot be done just then is left out."""

    kind: str
    name: str
    count: int


STEPS = st.builds(
    Step,
    st.sampled_from(
        ["append"] * 8 + ["create", "delete", "trim", "restart", "compact", "snapshot", "subscribe"]
    ),
    st.sampled_from(NAMES),
    st.integers(1, 12),
)


def live(steps: list[Step]) -> Witness:
    """Return a store that went through it all and was closed."""
    w = fresh()
    for number, step in enumerate(steps):
        there = step.name in {info.name for info in w.store.streams()}
        if step.kind == "restart":
            w.restart("close")
        elif step.kind == "compact":
            w.restart("close")
            w.store.compact()
        elif step.kind == "snapshot":
            Housekeeping(w.store._engine).snapshot()
        elif there != (step.kind != "create"):
            continue
        elif step.kind == "create":
            must(w.create(step.name, shards=1 + step.count % 2))
        elif step.kind == "delete" and not w.store.subscriptions():
            must(w.delete(step.name))
        elif step.kind == "trim":
            tail = w.store.stream(step.name).tail()
            w.trim(step.name, LATEST if tail is None or step.count % 3 == 0 else tail)
        elif step.kind == "subscribe" and not w.store.subscriptions():
            must(w.subscribe("s", step.name))
            if w.receive("s", "c", step.count):
                must(w.ack("s", "c"))
        elif step.kind == "append":
            must(w.append(step.name, batch(f"{number}", step.count, 2500, keys=3)))
    w.restart("close", reopen=False)
    return w


def of_catalog(report: CheckReport) -> bool:
    return any(
        any(isinstance(each, OwnLost) and each.shard == CATALOG for each in damage.lost)
        or any(each.shard == CATALOG for each in damage.onward)
        for damage in report.damage
    )


def onward(report: CheckReport) -> dict[int, int]:
    return {each.shard: each.first for damage in report.damage for each in damage.onward}


def numbers(env: SimEnv) -> set[int]:
    return {int(path[-20:-4], 16) for path in segments(env)}


LIVES = {
    "a create lost": [
        Step("create", "a", 2),
        *[Step("append", "a", 12)] * 4,
        Step("create", "b", 2),
        *[Step("append", "b", 12)] * 6,
    ],
    "deleted": [
        *(Step("create", name, 2) for name in "ab"),
        *(Step("append", name, 6) for _ in range(8) for name in "ab"),
        Step("delete", "b", 1),
        *[Step("append", "a", 12)] * 6,
        Step("create", "c", 2),
    ],
    "snapshot": [
        *(Step("create", name, 2) for name in "ab"),
        *(Step("append", name, 6) for _ in range(4) for name in "ab"),
        Step("snapshot", "a", 1),
        *(Step("append", name, 12) for _ in range(2) for name in "ab"),
        *[Step("append", "b", 12)] * 6,
    ],
    "regrouped": [
        *(Step("create", name, 2) for name in NAMES),
        *(Step("append", name, 6) for _ in range(6) for name in NAMES),
        Step("trim", "a", 1),
        Step("compact", "a", 1),
        *(Step("append", name, 6) for _ in range(2) for name in NAMES),
    ],
}


@pytest.mark.parametrize("steps", LIVES.values(), ids=LIVES.keys())
def test_each_segment_in_turn(steps: list[Step]) -> None:
    w = live(steps)
    for path in segments(w.env):
        judge(w.branch(w.env.clone()), {path})


@settings(deadline=None, max_examples=25)
@given(steps=st.lists(STEPS, min_size=10, max_size=60), which=st.integers(1, (1 << 16) - 1))
def test_what_is_left_and_what_is_told_is_all_there_was(steps: list[Step], which: int) -> None:
    w = live([Step("create", "a", 1), Step("append", "a", 3), *steps])
    paths = segments(w.env)
    judge(w, {path for i, path in enumerate(paths) if which >> i & 1} or {paths[0]})


def stored(env: SimEnv) -> dict[str, set[tuple[int, int]]]:
    """Return the records in each segment file, trimmed ones too, as an independent reader."""
    paths = env.disk.walk("/db")
    store = read_store({path.removeprefix("/db/"): env.disk.read_all(path) for path in paths})
    return {
        f"/db/segments/{segment.number:016x}.seg": {
            (row.shard, row.seq + i) for row, _ in segment.blocks for i in range(row.records)
        }
        for segment in store.segments
    }


def judge(w: Witness, removed: set[str]) -> None:
    report = check(w.env, "/db")
    assert report.sound, list(report.lines())
    assert not report.unnamed
    with opened(w.env.clone(), "/db") as store:
        model, _ = read(store)
    assert report.records == len(model)
    whole, held = numbers(w.env), stored(w.env)
    for path in removed:
        w.env.disk.unlink_raw(path)
    left = set[tuple[int, int]]().union(*(held[path] for path in held.keys() - removed))
    compare(w, model, left)
    named_as_missing(check(w.env, "/db"), removed, whole)


def compare(w: Witness, model: Records, left: set[tuple[int, int]]) -> None:
    report = check(w.env, "/db")
    saved = salvage(w.env, "/db", "/new")
    assert saved.source == report
    assert saved.records == report.records
    with opened(w.env, "/new") as store:
        kept, _ = read(store)
        assert {info.name for info in store.streams()} >= {each.name for each in report.unnamed}
    with damaged_open.opened(w.env) as store:
        found, told, ends = damaged_open.read(store)
    assert found == kept
    assert len(kept) == report.records
    assert model.keys() & left <= kept.keys() <= left

    gone = lost(report)
    assert told == gone
    assert ends == {shard for shard in onward(report) if shard < LEVEL_1}
    assert gone.isdisjoint(kept)
    catalog_lost = of_catalog(report)
    if not catalog_lost:
        assert kept.items() <= model.items()
        assert gone <= model.keys()
    assert all(kept[id_] == model[id_] for id_ in kept.keys() & model.keys())
    known = {shard for shard, _ in kept.keys() | gone} | onward(report).keys()
    for shard, lsn in model.keys() - kept.keys() - gone:
        if shard in known:
            assert lsn >= onward(report)[shard], "silently lost"
        else:
            assert catalog_lost, "a stream is silently lost"


def named_as_missing(report: CheckReport, removed: set[str], whole: set[int]) -> None:
    assert not report.sound
    missing = {d.path: d.detail for d in report.damage if d.fault == MISSING}
    assert not any("no trace" in detail for detail in missing.values())
    if not of_catalog(report):
        assert set(missing) == removed
    level_0 = {path for path in removed if int(path[-20:-4], 16) < LEVEL_1}
    assert missing.keys() >= level_0
    if max(whole) < LEVEL_1:
        assert {path for path, detail in missing.items() if not detail} <= removed


def test_lost_ranges_are_sure_only_where_no_trim_can_be_lost() -> None:
    w = live([Step("create", "a", 2), *[Step("append", "a", 12)] * 12, Step("create", "b", 2)])
    paths = segments(w.env)
    assert len(paths) > 2
    for path, sure in ((paths[0], False), (paths[1], True)):
        env = w.env.clone()
        env.disk.unlink_raw(path)
        (damage,) = check(env, "/db").damage
        assert {each.sure for each in damage.lost if isinstance(each, Lost)} == {sure}
        assert damage.bounded


def test_a_name_that_is_taken_is_not_given_again() -> None:
    w = fresh()
    must(w.create("a"))
    for number in range(4):
        must(w.append("a", batch(f"{number}", 12, 2500)))
    must(w.create("salvaged-1"))
    must(w.append("salvaged-1", batch("theirs", 3, 100)))
    w.restart("close", reopen=False)
    w.env.disk.unlink_raw(segments(w.env)[0])
    (unnamed,) = check(w.env, "/db").unnamed
    assert unnamed.shards == (1,)
    assert unnamed.name != "salvaged-1"
    assert unnamed.records > 3
    salvage(w.env, "/db", "/new")
    with opened(w.env, "/new") as store:
        assert len(list(store.stream("salvaged-1").read())) == 3
        assert store.stream(unnamed.name).tail() is not None


def test_report_tells_people_and_programs_of_streams_without_a_name() -> None:
    w = live(LIVES["a create lost"])
    w.env.disk.unlink_raw(segments(w.env)[0])
    report = check(w.env, "/db")
    saved = salvage(w.env, "/db", "/new")
    facts = report.facts()
    assert facts["unnamed"] == saved.facts()["source"]["unnamed"]
    each = facts["unnamed"][0]
    told = f"note: {each['records']} records of a stream of unknown name, shard 1"
    assert each["shards"] == [1]
    assert f"{told}; a salvage calls it 'salvaged-1'" in list(report.lines())
    assert f"{told}, are now in stream 'salvaged-1'" in list(saved.lines())
    assert any("stream of unknown name, shard 1: record" in line for line in report.lines())
    lost_of = [each for damage in facts["damage"] for each in damage["lost"]]
    assert {"stream": None, "log": None, "shard": 1, "first": 1}.items() <= lost_of[1].items()
