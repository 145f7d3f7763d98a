"""Every step of a workload crashed, every file of it damaged.

Goal: whatever happens, an open succeeds or names the damage; nothing acknowledged is lost, nothing
foreign or failed appears. Method: one scripted workload over the simulated disk, witnessed by the
reference model with its subscriptions, is stopped at each of its mutations.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hstreamlite.errors import (
    CorruptionError,
    HStreamError,
    NotAStore,
    StoreFailed,
    StoreVersionUnsupported,
)
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, FailSync, Op
from hstreamlite.testing.witness import Witness
from tests import effort
from tests.log.scripted import Stopped, batch, finish, fresh, must, run

CUTS = effort.of(8, brief=2, nightly=50)
"""Power cuts, each with another fate of what was unsynced, at every mutation."""


def stopped_at(mutation: int) -> Witness | None:
    """Run the script until power fails before a mutation; None if it never comes to that."""
    w = fresh()
    w.env.disk.stop_at(mutation)
    try:
        run(w)
        w.store.close()
    except (Stopped, HStreamError, OSError):
        assert w.env.disk.stopped
        return w
    return None


def opening_stopped(w: Witness, mutation: int) -> bool:
    w.env.disk.stop_at(mutation)
    try:
        w.open()
    except (HStreamError, OSError):
        assert w.env.disk.stopped
        return True
    stopped = w.env.disk.stopped
    w.env.disk.stop_at(None)
    return stopped


def mutations() -> range:
    w = fresh()
    first = w.env.disk.counts().mutations
    run(w)
    w.store.close()
    return range(first, w.env.disk.counts().mutations)


def test_crash_at_every_mutation_loses_nothing() -> None:
    crashes = recovered = 0
    for mutation in mutations():
        w = stopped_at(mutation)
        if w is None:
            continue
        for cut in range(CUTS + 1):
            other = w.branch(w.env.clone())
            if cut == CUTS:
                other.restart("process")
            else:
                other.restart("power", seed=cut)
            recovered += other.check()
            finish(other)
            crashes += 1
    print(f"crash states: {crashes}, records read back: {recovered}")
    assert crashes > 60 * CUTS


def test_recovery_crashed_at_every_mutation_recovers() -> None:
    crashes = 0
    every = mutations()
    for mutation in every[:: effort.of(3, brief=12, nightly=1)]:
        w = stopped_at(mutation)
        if w is None:
            continue
        cut = w.branch(w.env.clone())
        cut.restart("power" if mutation % 2 else "process", seed=mutation, reopen=False)
        step = 0
        while True:
            again = cut.branch(cut.env.clone())
            if not opening_stopped(again, step):
                break
            again.restart("power", seed=step)
            finish(again)
            crashes += 1
            step += 1
    print(f"crashed recoveries: {crashes}")
    assert crashes > effort.of(200, brief=50)


# Damage.


def filled() -> Witness:
    """Several segments of streams, a subscription and a named producer."""
    w = fresh()
    must(w.create("a"))
    must(w.create("b", shards=3))
    must(w.subscribe("s", "a"))
    for number in range(6):
        must(w.append("a", batch(f"a{number}", 8, 3000)))
        must(w.append("b", batch(f"b{number}", 20, 300, keys=5), compression="zstd"))
        w.receive("s", "c", 5)
        must(w.ack("s", "c", 3))
        must(w.pass_time(0.5))
    must(w.trim("b", w.store.stream("b").tail()))
    return w


def closed_store() -> Witness:
    w = filled()
    w.restart("close", reopen=False)
    return w


def crashed_store() -> Witness:
    """A store cut off in the middle, its newest segment open, behind an idle mark."""
    w = filled()
    for number in range(4):
        must(w.append("a", batch(f"tail{number}", 3, 900)))
    w.env.advance(w.config.idle_mark)
    must(w.tick())
    must(w.pass_time(0.01))
    w.env.disk.sync_all()
    w.restart("power", seed=0, reopen=False)
    return w


def examine(w: Witness) -> str:
    """Open a damaged store and read all of it: "reported" or "intact", or a violation."""
    try:
        w.open()
        w.check()
    except CorruptionError as error:
        assert error.path.startswith("/db")
        return "reported"
    except (NotAStore, StoreVersionUnsupported):
        return "reported"
    w.drain()
    return "intact"


@pytest.mark.parametrize("make", [closed_store, crashed_store])
def test_flipped_bit_is_reported_or_harmless(make: Callable[[], Witness]) -> None:
    origin = make()
    verdicts: dict[str, int] = {}
    for path in origin.env.disk.walk("/db"):
        if path.endswith(("LOCK", "STAGE", "reserve", "spare")):
            continue
        data = origin.env.disk.read_all(path)
        used = [at for at in range(len(data)) if data[at]]
        dense = effort.of(max(1, len(used) // 120), brief=max(1, len(used) // 30), nightly=1)
        for number, at in enumerate(
            [*used[::dense], *range(0, len(data), effort.of(16384, brief=65536, nightly=4096))]
        ):
            w = origin.branch(origin.env.clone())
            w.env.disk.flip(path, at * 8 + number % 8)
            verdict = examine(w)
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
    print(f"flips: {verdicts}")
    assert verdicts["reported"] > 100


@pytest.mark.parametrize("make", [closed_store, crashed_store])
def test_truncated_file_is_reported_or_harmless(make: Callable[[], Witness]) -> None:
    origin = make()
    verdicts: dict[str, int] = {}
    for path in origin.env.disk.walk("/db"):
        size = len(origin.env.disk.read_all(path))
        for length in sorted({0, 1, 95, 4095, *range(4096, size, 4096), max(0, size - 1)}):
            if length >= size:
                continue
            w = origin.branch(origin.env.clone())
            w.env.disk.truncate_raw(path, length)
            verdict = examine(w)
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
    print(f"truncations: {verdicts}")
    assert verdicts["reported"] > 20


@pytest.mark.parametrize("make", [closed_store, crashed_store])
def test_lost_swapped_and_foreign_files_are_reported(make: Callable[[], Witness]) -> None:
    origin = make()
    stranger = Witness(SimEnv(seed=99))
    run(stranger)
    stranger.restart("close", reopen=False)
    paths = [p for p in origin.env.disk.walk("/db") if p.endswith(".seg")]
    assert len(paths) > 1
    for path in paths:
        lost = origin.branch(origin.env.clone())
        lost.env.disk.unlink_raw(path)
        assert examine(lost) == "reported", f"deleted {path}"
        swapped = origin.branch(origin.env.clone())
        other = paths[paths.index(path) - 1]
        swapped.env.disk.rename_raw(path, "/db/aside")
        swapped.env.disk.rename_raw(other, path)
        swapped.env.disk.rename_raw("/db/aside", other)
        assert examine(swapped) == "reported", f"swapped {path}"
        if path in stranger.env.disk.walk("/db"):
            foreign = origin.branch(origin.env.clone())
            foreign.env.disk.overwrite(path, 0, stranger.env.disk.read_all(path)[:4096])
            assert examine(foreign) == "reported", f"foreign {path}"
    headless = origin.branch(origin.env.clone())
    headless.env.disk.unlink_raw("/db/SUPER")
    assert examine(headless) == "reported"


def test_files_of_a_newer_format_are_refused_by_version() -> None:
    origin = closed_store()
    segment = next(p for p in origin.env.disk.walk("/db") if p.endswith(".seg"))
    for path, major in ((segment, 6), ("/db/SUPER", 12)):
        for page in range(1 if path == segment else 2):
            w = origin.branch(origin.env.clone())
            data = bytearray(w.env.disk.read_all(path)[page * 4096 : page * 4096 + 4096])
            data[major] = 2
            start = 12
            data[8:12] = crc32c(bytes(data[start:])).to_bytes(4, "little")
            w.env.disk.overwrite(path, page * 4096, bytes(data))
            with pytest.raises(StoreVersionUnsupported) as raised:
                w.open()
            assert (raised.value.found, raised.value.supported) == (2, 1)


def crc32c(data: bytes) -> int:
    from hstreamlite._native import ffi, lib

    return int(lib.hsl_crc32c(0, ffi.from_buffer(data), len(data)))


def test_frames_of_an_older_life_of_a_file_are_never_believed() -> None:
    """The file that becomes the next segment is full of valid frames of the segment before."""
    w = fresh()
    must(w.create("a"))
    must(w.append("a", batch("old", 8, 3000)))
    (segment,) = [p for p in w.env.disk.walk("/db") if p.endswith(".seg")]
    w.restart("close")
    stale = w.env.disk.read_all(segment)
    for seed in range(20):
        other = w.branch(w.env.clone())
        other.open()
        other.env.disk.copy_raw(segment, "/db/segments/spare")
        other.env.disk.overwrite("/db/segments/spare", 0, stale[4096:] + stale[:4096])
        must(other.append("a", batch("new", 1, 200)))
        other.restart("power", seed=seed)
        finish(other)


def test_frame_that_does_not_continue_the_one_before_is_never_believed() -> None:
    """Two courses of events from one seed: their frames differ in what they follow alone."""
    files: list[bytes] = []
    for tag in ("one", "two"):
        w = fresh()
        must(w.create("a"))
        must(w.append("a", batch(tag, 1, 700)))
        must(w.append("a", batch(f"{tag} more", 1, 700)))
        (segment,) = [p for p in w.env.disk.walk("/db") if p.endswith(".seg")]
        w.restart("process", reopen=False)
        files.append(w.env.disk.read_all(segment))
    pages = [at for at in range(0, len(files[0]), 4096) if files[0][at:][:64] != files[1][at:][:64]]
    last = pages[-1]
    assert files[0][last + 8 : last + 24] == files[1][last + 8 : last + 24] != bytes(16)
    w.env.disk.overwrite(segment, last, files[0][last : last + 4096])
    w.open()
    assert [s.payload[:8] for s in w.read("a")] == [b"two-0:.."]


def test_failed_store_stays_failed_until_it_is_reopened() -> None:
    w = fresh()
    must(w.create("a"))
    w.env.disk.inject(FailSync(ops=Op.DATASYNC))
    assert w.append("a", batch("lost", 1, 10)) == "unknown"
    for _ in range(3):
        with pytest.raises(StoreFailed):
            w.store.stream("a").append(b"refused")
    w.check()
    w.restart("close")
    finish(w)


def test_reading_survives_what_only_reading_met() -> None:
    w = fresh()
    run(w)
    w.restart("close")
    w.env.disk.inject(Fail(ops=Op.PREAD, path=".seg"))
    with pytest.raises(OSError, match="read"):
        list(w.store.stream("a").read())
    w.check()
