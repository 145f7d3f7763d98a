"""Regrouping changes files and nothing else: not under crashes, faults, damage or a full disk.

Method: scattered streams on the simulated disk, witnessed by the model. `compact` does at once what
the store does in the background, by the same code.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import hstreamlite as hs
from hstreamlite.errors import CorruptionError, HStreamError, StorageFull, StorageUnavailable
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.log.swap import Swap, segment_facts
from hstreamlite.testing.model import Outcome
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, FailSync, Fault, Op, Short
from hstreamlite.testing.witness import Witness, small_config
from tests import effort
from tests.log.format_reader import read_store
from tests.log.scripted import Stopped, batch, finish, must
from tests.log.test_recovery_states import examine

CUTS = effort.of(4, brief=1, nightly=30)
STREAMS = ("a", "b", "c", "d")


def scatter(w: Witness, rounds: int, tag: str = "x") -> None:
    for number in range(rounds):
        for name in STREAMS:
            must(w.append(name, batch(f"{tag}{number}{name}", 4, 900, keys=3)))


def scattered(rounds: int = 14) -> Witness:
    """Several sealed segments in which four streams lie mixed; one of them is trimmed."""
    w = Witness(SimEnv(seed=5), small_config(segment_bytes_max=64 << 10))
    for name in STREAMS:
        must(w.create(name, shards=2))
    must(w.subscribe("s", "a"))
    scatter(w, rounds)
    w.receive("s", "c", 20)
    must(w.ack("s", "c", 9))
    must(w.trim("b", w.store.stream("b").tail()))
    return w


def numbers(w: Witness) -> list[int]:
    return [fact.number for fact in segment_facts(w.store._engine.journal)]


def regrouped(w: Witness) -> list[int]:
    return [number for number in numbers(w) if number >= LEVEL_1]


def image(w: Witness) -> dict[str, bytes]:
    disk = w.env.disk
    return {path.removeprefix("/db/"): disk.read_all(path) for path in disk.walk("/db")}


def shown(w: Witness) -> list[tuple[str, str, bytes]]:
    """Return id, time and payload of every record."""
    return [
        (str(r.id), str(r.append_time), bytes(r.payload))
        for name in STREAMS
        for r in w.store.stream(name).read()
    ]


def test_what_is_read_is_the_same_before_and_after() -> None:
    w = scattered()
    before = shown(w)
    old = numbers(w)
    must(w.compact())
    assert shown(w) == before
    assert len(regrouped(w)) >= 2
    assert set(numbers(w)) & set(old) == {max(old)}
    w.restart("close")
    assert shown(w) == before
    finish(w)
    w.restart("close", reopen=False)
    segments = read_store(image(w)).segments
    assert [s.cover.first for s in segments] == sorted(s.cover.first for s in segments)
    blocks = [(b.shard, b.seq) for s in segments if s.header.level for _, b in s.blocks]
    assert blocks, "nothing was regrouped"


@pytest.mark.parametrize("piece", [1, 4096, 20_000])
def test_copying_in_small_pieces_copies_the_same(piece: int) -> None:
    w = scattered(6)
    before = shown(w)
    journal = w.store._engine.journal
    old = [fact.number for fact in segment_facts(journal) if fact.sealed]
    swap = Swap.begin(journal, old, window=30_000)
    assert swap is not None
    steps = 1
    while not swap.step(piece):
        steps += 1
    assert steps > 2 * len(old)
    assert shown(w) == before
    swap.finish()
    swap.close()
    assert regrouped(w)
    assert shown(w) == before
    journal.check_invariants()


def test_a_second_regrouping_finds_nothing_to_do() -> None:
    w = scattered()
    must(w.compact())
    once = numbers(w)
    must(w.compact())
    assert numbers(w) == once


def test_one_log_alone_is_left_as_it_is() -> None:
    w = Witness(SimEnv(seed=1))
    must(w.create("a"))
    for number in range(12):
        must(w.append("a", batch(f"{number}", 8, 3500)))
    before = numbers(w)
    must(w.compact())
    assert numbers(w) == before


def test_what_little_is_left_moves_and_the_rest_is_freed() -> None:
    w = scattered()
    must(w.compact())
    first = regrouped(w)
    for name in ("a", "c", "d"):
        must(w.trim(name, w.store.stream(name).tail()))
    used = w.env.disk.counts().used
    must(w.compact())
    assert not set(first) & set(numbers(w))
    assert w.env.disk.counts().used < used
    w.restart("power", seed=3)
    finish(w)


def test_a_store_that_was_regrouped_whole_goes_on() -> None:
    w = scattered()
    w.restart("close")
    must(w.compact())
    assert len(numbers(w)) == len(regrouped(w)) + 1, "all but the one that tells of it"
    for how in ("close", "power", "process", "close"):
        w.restart(how, seed=1)
        w.check()
    scatter(w, 3, "y")
    w.restart("power", seed=2)
    finish(w)


def test_the_background_regroups_when_segments_have_rested() -> None:
    w = Witness(SimEnv(seed=5), small_config(retention_interval=1.0, regroup_after=5.0))
    for name in STREAMS:
        must(w.create(name))
    scatter(w, 14)
    must(w.pass_time(1.0))
    must(w.pass_time(3.0))
    assert not regrouped(w)
    for _ in range(40):
        must(w.pass_time(1.0))
    assert regrouped(w)
    finish(w)
    kept = Witness(SimEnv(seed=5), small_config(retention_interval=1.0, regroup=False))
    for name in STREAMS:
        must(kept.create(name))
    scatter(kept, 14)
    for _ in range(80):
        must(kept.pass_time(1.0))
    assert not regrouped(kept)


def test_a_regrouped_log_is_read_in_as_few_pieces_as_one_that_lies_alone() -> None:
    w = Witness(SimEnv(seed=1), small_config(segment_bytes_max=1 << 20))
    names = [f"scattered{n}" for n in range(12)]
    for name in [*names, "alone"]:
        must(w.create(name))
    for number in range(30):
        for name in names:
            must(w.append(name, batch(f"{number}{name}", 1, 3000)))
    for number in range(30):
        must(w.append("alone", batch(f"{number}", 1, 3000)))
    w.restart("close")

    def reads(name: str) -> int:
        before = w.store.stats().log["reads"]
        w.read(name)
        return w.store.stats().log["reads"] - before

    assert reads(names[5]) > 3 * reads("alone")
    must(w.compact())
    assert reads(names[5]) <= reads("alone") + 1


# Crashes and faults.


def script(w: Witness) -> None:
    """Regroup, lose most of it to a trim, and regroup that."""
    must(w.compact())
    for name in ("a", "c", "d"):
        must(w.trim(name, w.store.stream(name).tail()))
    must(w.delete("d"))
    must(w.compact())
    must(w.append("b", batch("last", 3, 900)))


def stopped_at(origin: Witness, mutation: int) -> Witness | None:
    w = origin.branch(origin.env.clone())
    w.open()
    w.env.disk.stop_at(w.env.disk.counts().mutations + mutation)
    try:
        script(w)
    except Stopped:
        assert w.env.disk.stopped
    return w if w.env.disk.stopped else None


@pytest.fixture(scope="module")
def origin() -> Witness:
    w = scattered(8)
    w.restart("close", reopen=False)
    w.env.disk.sync_all()
    return w


def test_crash_at_every_step_leaves_old_or_new(origin: Witness) -> None:
    crashes = read = replaced = 0
    mutation = 0
    while (w := stopped_at(origin, mutation)) is not None:
        for cut in range(CUTS + 1):
            other = w.branch(w.env.clone())
            if cut == CUTS:
                other.restart("process")
            else:
                other.restart("power", seed=cut + 100 * mutation)
            read += other.check()
            facts = segment_facts(other.store._engine.journal)
            replaced += any(f.number >= LEVEL_1 for f in facts) and not all(
                f.live for f in facts if f.sealed
            )
            if cut in (0, CUTS):
                finish(other)
                must(other.compact())
                other.check()
                other.restart("close", reopen=False)
                read_store(image(other))
            crashes += 1
        mutation += effort.of(1, brief=3)
    print(f"crash states: {crashes}, of them with both old and new files: {replaced}, read: {read}")
    assert mutation > 40
    assert replaced > effort.of(10, brief=2)


def test_recovery_beside_replaced_files_crashed_at_every_step_recovers(origin: Witness) -> None:
    crashes = 0
    for mutation in range(0, 1000, effort.of(4, brief=16, nightly=1)):
        w = stopped_at(origin, mutation)
        if w is None:
            break
        w.restart("process", reopen=False)
        step = 0
        while True:
            again = w.branch(w.env.clone())
            again.env.disk.stop_at(step)
            try:
                again.open()
            except (HStreamError, OSError):
                assert again.env.disk.stopped
            else:
                break
            again.restart("power", seed=step)
            again.check()
            crashes += 1
            step += 1
    print(f"crashed recoveries: {crashes}")
    assert crashes > effort.of(50, brief=10)


FAULTS: dict[str, Callable[[int], Fault]] = {
    "EIO": lambda nth: Fail(ops=Op.ANY & ~Op.CLOSE, nth=nth),
    "ENOSPC": lambda nth: Fail(
        ops=Op.ALLOCATE | Op.PWRITE | Op.OPEN, path="regroup", nth=nth, errno=errno.ENOSPC
    ),
    "short": lambda nth: Short(nth=nth),
    "sync lost": lambda nth: FailSync(ops=Op.DATASYNC | Op.SYNC, nth=nth, outcome="lost"),
    "name lost": lambda nth: FailSync(ops=Op.SYNC_DIR, nth=nth, outcome="survived"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_at_every_call_changes_nothing(kind: str, origin: Witness) -> None:
    struck = 0
    nth = 1
    while True:
        w = origin.branch(origin.env.clone())
        w.open()
        hits = w.env.disk.inject(FAULTS[kind](nth))
        outcome: Outcome = w.compact()
        if not hits():
            break
        struck += 1
        w.env.disk.clear_faults()
        if kind == "ENOSPC":
            assert not w.failed
            assert outcome == "none"
        if kind == "short":
            assert outcome == "ok"
        if not w.failed:
            w.check()
            must(w.append("a", batch("on", 1, 900)))
            w.compact()
            w.check()
        w.restart(("process", "power", "close")[nth % 3], seed=nth)
        finish(w)
        must(w.compact())
        w.check()
        nth += 1
    print(f"faults: {struck}")
    assert struck > 1


def test_trimmed_stays_trimmed_and_a_trim_not_yet_durable_loses_nothing(origin: Witness) -> None:
    """The copying leaves out what is trimmed in memory, so it waits for the trim's record."""
    w = origin.branch(origin.env.clone())
    w.open()
    must(w.trim("c", w.store.stream("c").tail()))
    must(w.compact())
    kept = len(w.read("c"))
    w.restart("power", seed=1)
    assert len(w.read("c")) == kept == 1
    finish(w)


def test_deleting_a_stream_while_it_is_copied_is_all_or_nothing(origin: Witness) -> None:
    w = origin.branch(origin.env.clone())
    w.open()
    regrouper = w.store._ticker.house.regrouper
    journal = w.store._engine.journal
    durable: list[bool] = []
    pending = w.store._engine.delete_stream("d")
    w.model.delete_stream("d", outcome="unknown")
    regrouper._free_segments = lambda: durable.append(journal.durable() >= pending.ticket)
    while regrouper.step(now=True):
        pass
    assert durable
    assert all(durable), "a name was given before the deletion was on disk"
    w.restart("power", seed=4)
    finish(w)


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65])
def test_no_file_is_made_beside_one_whose_name_may_be_on_disk(share: float) -> None:
    """Of what the other would stand for, a part may be gone when it is read."""
    w = scattered()
    w.restart("close")
    w.env.disk.inject(FailSync(ops=Op.SYNC_DIR, outcome="survived"))
    assert w.compact() != "ok"
    assert any("/00000000800" in path for path in w.env.disk.walk("/db"))
    assert not regrouped(w)
    for name in STREAMS:
        records = list(w.store.stream(name).read())
        must(w.trim(name, records[int(share * (len(records) - 1))].id))
    scatter(w, 4, "y")
    must(w.compact())
    w.check()
    w.restart("close")
    finish(w)
    must(w.compact())
    assert regrouped(w)
    w.check()


# Damage.


def compacted(origin: Witness) -> Witness:
    w = origin.branch(origin.env.clone())
    w.open()
    must(w.compact())
    scatter(w, 2, "z")
    w.restart("close", reopen=False)
    return w


def half_done(origin: Witness) -> Witness:
    """New files beside the old ones that they replace."""
    w = origin.branch(origin.env.clone())
    w.open()
    w.env.disk.inject(Fail(ops=Op.UNLINK, from_then_on=True))
    w.compact()
    w.env.disk.clear_faults()
    w.restart("process", reopen=False)
    assert sum(path.endswith(".seg") for path in w.env.disk.walk("/db")) > 4
    return w


@pytest.mark.parametrize("make", [compacted, half_done])
def test_flipped_bit_in_a_regrouped_file_is_reported_or_harmless(
    make: Callable[[Witness], Witness], origin: Witness
) -> None:
    made = make(origin)
    verdicts: dict[str, int] = {}
    for path in made.env.disk.walk("/db/segments"):
        new = "/00000000800" in path
        if not path.endswith(".seg") or not (new or make is half_done):
            continue
        data = made.env.disk.read_all(path)
        used = [at for at in range(len(data)) if data[at]]
        usual = max(1, len(used) // (60 if new else 8))
        dense = effort.of(usual, brief=4 * usual, nightly=1)
        for number, at in enumerate([*range(0, 152 if new else 0, 2), *used[::dense]]):
            w = made.branch(made.env.clone())
            w.env.disk.flip(path, at * 8 + number % 8)
            verdict = examine(w)
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
    print(f"flips: {verdicts}")
    assert verdicts["reported"] > 80


def test_truncated_lost_and_swapped_regrouped_files_are_reported(origin: Witness) -> None:
    made = compacted(origin)
    paths = [p for p in made.env.disk.walk("/db") if "/00000000800" in p]
    level_0 = [p for p in made.env.disk.walk("/db") if p.endswith(".seg") and p not in paths]
    assert len(paths) > 1
    verdicts: dict[str, int] = {}
    for path in paths:
        size = len(made.env.disk.read_all(path))
        for length in sorted({0, 95, 4096, *range(8192, size, 8192), size - 4096, size - 1}):
            cut = made.branch(made.env.clone())
            cut.env.disk.truncate_raw(path, length)
            verdict = examine(cut)
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
        lost = made.branch(made.env.clone())
        lost.env.disk.unlink_raw(path)
        assert examine(lost) == "reported"
        for other in {*paths, *level_0} - {path}:
            swapped = made.branch(made.env.clone())
            swapped.env.disk.rename_raw(path, "/db/aside")
            swapped.env.disk.rename_raw(other, path)
            swapped.env.disk.rename_raw("/db/aside", other)
            assert examine(swapped) == "reported"
    print(f"truncations: {verdicts}")
    assert verdicts["reported"] > 10


def test_a_damaged_block_ends_the_copying_with_its_place_and_stays_reported() -> None:
    w = scattered(8)
    w.restart("close", reopen=False)
    path = sorted(p for p in w.env.disk.walk("/db") if p.endswith(".seg"))[1]
    at = w.env.disk.read_all(path).index(b"a-1:....") + 20
    w.env.disk.flip(path, at * 8)
    w.open()
    with pytest.raises(CorruptionError) as caught:
        w.store.compact()
    assert caught.value.path == path
    assert caught.value.offset < at < caught.value.offset + caught.value.length
    w.store.compact()
    assert path in w.env.disk.walk("/db")
    with pytest.raises(CorruptionError):
        shown(w)


def test_rows_and_frames_that_do_not_verify_end_the_copying_with_their_place() -> None:
    w = scattered(8)
    w.restart("close", reopen=False)
    path = sorted(p for p in w.env.disk.walk("/db") if p.endswith(".seg"))[1]
    footer = int.from_bytes(w.env.disk.read_all(path)[-80:-72], "little")
    for at in (footer + 3, footer - 4096 + 200):
        w.env.disk.flip(path, at * 8)
    w.open()
    with pytest.raises(CorruptionError) as caught:
        w.store.compact()
    assert (caught.value.path, str(caught.value.lost[0])[:6]) == (path, "shard ")
    assert caught.value.offset >= footer
    assert not regrouped(w)


def test_what_is_trimmed_and_dropped_while_it_is_copied_does_not_come_back() -> None:
    w = scattered(8)
    w.restart("close")
    engine = w.store._engine
    old = [fact.number for fact in segment_facts(engine.journal) if fact.sealed and fact.live]
    swap = Swap.begin(engine.journal, old, window=30_000)
    assert swap is not None
    assert not swap.step(1)
    for name in STREAMS:
        must(w.trim(name, hs.LATEST))
    assert len(set(old) & set(numbers(w))) < len(old) // 2
    while not swap.step(4096):
        pass
    engine.journal.wait(swap.ticket)
    swap.finish()
    swap.close()
    engine.journal.check_invariants()
    assert shown(w) == []
    w.store._ticker.house.free_segments()
    assert not regrouped(w)
    finish(w)


def test_a_store_may_close_while_segments_are_copied() -> None:
    w = scattered(6)
    w.restart("close")
    journal = w.store._engine.journal
    old = [fact.number for fact in segment_facts(journal) if fact.sealed and fact.live]
    swap = Swap.begin(journal, old, window=30_000)
    assert swap is not None
    swap.step(1)
    w.store.close()
    with pytest.raises(hs.StoreClosed):
        swap.step(1)
    with pytest.raises(hs.StoreClosed):
        swap.finish()
    swap.close()
    assert w.env.disk.counts().handles == 0


# Readers.


def test_a_reader_in_the_middle_goes_on_with_the_same_records(origin: Witness) -> None:
    w = origin.branch(origin.env.clone())
    w.open()
    expected = {name: [str(r.id) for r in w.store.stream(name).read()] for name in STREAMS}
    for at in range(0, max(map(len, expected.values())), 3):
        readers = {}
        for name in STREAMS:
            reader = w.store.stream(name).read()
            most = min(at, len(expected[name]))
            readers[name] = (reader, [str(next(reader).id) for _ in range(most)])
        if at == 9:
            must(w.compact())
            assert regrouped(w)
        for name, (reader, got) in readers.items():
            assert got + [str(r.id) for r in reader] == expected[name]


@given(st.data())
def test_reads_between_the_steps_of_the_copying_show_the_same(data: st.DataObject) -> None:
    w = scattered(6)
    expected = {name: w.read(name) for name in STREAMS}
    regrouper = w.store._ticker.house.regrouper
    readers = {name: w.store.stream(name).read() for name in STREAMS}
    got: dict[str, int] = dict.fromkeys(STREAMS, 0)
    more = True
    while more:
        name = data.draw(st.sampled_from(STREAMS))
        for _ in range(data.draw(st.integers(0, 9))):
            record = next(readers[name], None)
            if record is not None:
                assert record.payload == expected[name][got[name]].payload
                got[name] += 1
        more = regrouper.step(now=True)
        w.store._engine.journal.check_invariants()
    for name, reader in readers.items():
        assert [r.payload for r in reader] == [s.payload for s in expected[name][got[name] :]]


# A full disk.


def test_a_full_disk_leaves_all_as_it_was_and_retention_frees(origin: Witness) -> None:
    w = origin.branch(origin.env.clone())
    w.open()
    disk = w.env.disk
    disk.set_capacity(disk.counts().used + 8192)
    w.store.compact()
    assert not regrouped(w)
    assert "regroup" not in " ".join(disk.walk("/db"))
    w.check()
    before = numbers(w)
    disk.set_capacity(1 << 30)
    disk.inject(Fail(ops=Op.ALLOCATE, path="regroup", errno=errno.ENOSPC))
    with pytest.raises(StorageFull):
        w.store.compact()
    assert numbers(w) == before
    assert "regroup" not in " ".join(disk.walk("/db"))
    disk.set_capacity(disk.counts().used + 8192)
    for name in STREAMS:
        must(w.trim(name, hs.LATEST))
    assert len(numbers(w)) < len(before)
    disk.set_capacity(1 << 30)
    finish(w)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("extra", range(0, 128 << 10, 20 << 10))
def test_a_disk_full_of_files_of_which_a_little_lives_is_cleaned(
    extra: int, background: bool
) -> None:
    """Every file keeps a record of the small stream, so that none can go whole. However the disk
    ends, appends have left what cleaning needs."""
    env = SimEnv(seed=2, capacity=(1 << 20) + extra)
    w = Witness(env, small_config(retention_interval=1.0, regroup_after=1e6))
    must(w.create("big"))
    must(w.create("small"))
    outcome: Outcome = "ok"
    number = 0
    while outcome == "ok":
        outcome = w.append("small", batch(f"small{number}", 1, 100))
        if outcome == "ok":
            outcome = w.append("big", batch(f"big{number}", 8, 3500))
        number += 1
    assert outcome == "none"
    files = len(numbers(w))
    must(w.trim("big", w.store.stream("big").tail()))
    assert len(numbers(w)) > files // 2, "the small stream kept too little alive"
    if not background:
        must(w.compact())
        assert len(numbers(w)) < files // 2
    for again in range(number // 2):
        refused = 0
        while w.append("big", batch(f"again{again}/{refused}", 8, 3500)) != "ok":
            refused += 1
            assert background
            assert refused < 20
            must(w.pass_time(1.0))
    w.restart("power", seed=1)
    w.check()
    must(w.append("small", batch("after", 2, 700)))
    w.check()


def test_regrouping_where_the_directory_is_gone_is_refused(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        store.create_stream("a").append(b"x")
        (tmp_path / "s").rename(tmp_path / "elsewhere")
        with pytest.raises(StorageUnavailable, match="No such file"):
            store.compact()
        (tmp_path / "elsewhere").rename(tmp_path / "s")
        store.compact()
