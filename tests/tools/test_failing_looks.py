"""Each allocation and each read fails once while a store is opened, looked at or saved.

Goal: a MemoryError or an OSError comes of it, or what comes without the fault; nothing is left
behind, and whoever tries again meets what there was. Method: sound and damaged images, all that can
be done with one, and the next call failing in each run until a run meets no failure.
"""

from __future__ import annotations

import errno
import functools
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import lib
from hstreamlite.errors import HStreamError
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import small_config
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from tests.log.scripted import batch, fresh, must
from tests.log.test_recovery_states import closed_store, crashed_store
from tests.tools.images import regrouped_store, replaced, segments
from tests.tools.test_forged import log_of_a_block

pytestmark = pytest.mark.usefixtures("frozen_heap")

LEAST = 2
"""Fewer failures than that do not go where they are meant to."""


@pytest.fixture(autouse=True)
def _allocations_succeed_afterwards() -> Iterator[None]:
    yield
    lib.hsl_alloc_fail_at(0)


def footer_of(env: SimEnv, path: str) -> int:
    return int.from_bytes(env.disk.read_all(path)[-80:-72], "little")


def crashed() -> SimEnv:
    return crashed_store().env


def filled(env: SimEnv, frames: int) -> hs.Store:
    """A store of one segment with so many frames of three pages."""
    config = small_config(
        segment_bytes_min=16 << 20, segment_bytes_max=16 << 20, batch_bytes_max=16 << 10
    )
    store = hs.open("/db", env=env, config=config)
    stream = store.create_stream("a")
    for n in range(frames):
        stream.append(b"%4d;" % n * 1800, durability="memory")
        if n % 7 == 0:
            store.sync()
    return store


def with_rows_to_find_again() -> SimEnv:
    env = SimEnv()
    filled(env, 520).close()  # more than what is read of a file at once
    (path,) = segments(env)
    env.disk.flip(path, (footer_of(env, path) + 5) * 8)
    return env


def of_many_logs() -> SimEnv:
    """Their names take more than a page of a footer."""
    w = fresh()
    for name in "abc":
        must(w.create(name, shards=200))
        must(w.append(name, batch(name, 150, 20, keys=150)))
    w.restart("close", reopen=False)
    return w.env


def with_checkpoints() -> SimEnv:
    """One segment, not sealed, whose index is in pieces among its frames."""
    env = SimEnv()
    filled(env, 150)
    return env.process_crash()


def with_footers_to_rebuild() -> SimEnv:
    """Of one the trailer is hurt, of the others the rows."""
    env = closed_store().env
    first, *others = [p for p in segments(env) if env.disk.read_all(p)[-96:-88] == b"HSLFOOT1"]
    env.disk.flip(first, (len(env.disk.read_all(first)) - 50) * 8)
    for path in others:
        env.disk.flip(path, (footer_of(env, path) + 5) * 8)
    return env


def hurt() -> SimEnv:
    """A frame of the first segment is damaged, and its footer, with records behind it."""
    env = closed_store().env
    path = segments(env)[0]
    env.disk.flip(path, (len(env.disk.read_all(path)) - 50) * 8)
    env.disk.flip(path, (4096 + 4096 + 70) * 8)
    return env


def hurt_newest() -> SimEnv:
    """A frame of the newest segment is damaged, with others behind it."""
    env = crashed_store().env
    env.disk.flip(segments(env)[-1], (4096 + 30) * 8)
    return env


def hurt_regrouped() -> SimEnv:
    env = regrouped_store().env
    for path in segments(env)[::2]:
        env.disk.flip(path, (4096 + 70) * 8)
    return env


def forged() -> SimEnv:
    w = closed_store()
    log_of_a_block(w)
    return w.env


def read(store: hs.Store) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for info in store.streams():
        found[info.name] = [(str(r.id), r.payload) for r in store.stream(info.name).read()]
    return found


def opened(env: SimEnv, **options: Any) -> dict[str, Any]:
    with hs.open("/db", config=small_config(), env=env, **options) as store:
        return read(store)


def only_opened(env: SimEnv) -> None:
    hs.open("/db", config=small_config(), env=env).close()


def followed(env: SimEnv) -> dict[str, Any]:
    return opened(env, read_only=True)


def damaged(env: SimEnv) -> tuple[Counter[str], list[str]]:
    """Read a damaged store to its end; each loss is told once."""
    found: Counter[str] = Counter()
    told: list[str] = []
    options: dict[str, Any] = {"read_only": True, "accept_damage": True}
    with hs.open("/db", config=small_config(), env=env, **options) as store:
        for info in store.streams():
            reader = store.stream(info.name).read()
            while True:
                try:
                    for _ in reader:
                        found[info.name] += 1
                    break
                except hs.CorruptionError as error:
                    told += map(str, error.lost)
    return found, told


def checked(env: SimEnv) -> list[str]:
    return list(check(env, "/db").lines())


def salvaged(env: SimEnv) -> Any:
    for path in env.disk.walk("/new") if env.files.exists("/new") else ():
        env.disk.unlink_raw(path)
    report = salvage(env, "/db", "/new")
    return list(report.lines())


def outcome(act: Callable[[SimEnv], Any], env: SimEnv) -> Any:
    """Return what comes of it; where the store itself is at fault, that."""
    try:
        return act(env)
    except hs.CorruptionError as error:
        return str(error)


SCENES: dict[str, tuple[Callable[[], SimEnv], Callable[[SimEnv], Any]]] = {
    "open a crashed store": (crashed, opened),
    "open with checkpoints": (with_checkpoints, opened),
    "open with rows to find again": (with_rows_to_find_again, opened),
    "open with footers to rebuild": (with_footers_to_rebuild, opened),
    "open a hurt store": (hurt, opened),
    "open a store whose newest is hurt": (hurt_newest, opened),
    "open with replaced segments": (replaced, opened),
    "follow with footers to rebuild": (with_footers_to_rebuild, followed),
    "read a hurt store": (hurt, damaged),
    "read a hurt regrouped store": (hurt_regrouped, damaged),
    "check a hurt store": (hurt, checked),
    "check a hurt regrouped store": (hurt_regrouped, checked),
    "check a forged store": (forged, checked),
    "salvage a hurt regrouped store": (hurt_regrouped, salvaged),
}


OF_READS = SCENES | {"open with many logs": (of_many_logs, only_opened)}
"""One with so many allocations that failing each takes too long."""


@functools.cache
def begun(scene: str) -> tuple[SimEnv, Any]:
    env = OF_READS[scene][0]()
    return env, outcome(OF_READS[scene][1], env.clone())


def failures(scene: str, arm: Callable[[SimEnv, int], Callable[[], bool]]) -> int:
    """Do it with the n-th call failing, for each n; return how often an error came of it."""
    origin, expected = begun(scene)
    act = OF_READS[scene][1]
    nth = failed = 0
    while True:
        nth += 1
        env = origin.clone()
        gc.collect()
        before = lib.hsl_alloc_live()
        struck = arm(env, nth)
        try:
            got = outcome(act, env)
        except (MemoryError, OSError, HStreamError) as error:
            assert struck(), (nth, error)
            failed += 1
            got = None
            del error
        reached = struck()
        env.disk.clear_faults()
        lib.hsl_alloc_fail_at(0)
        gc.collect()
        assert lib.hsl_alloc_live() == before, nth
        assert env.disk.counts().handles == 0, nth
        if not reached:
            return failed
        if got is None:
            assert outcome(act, env) == expected, nth


@pytest.mark.parametrize("scene", SCENES)
def test_each_allocation_may_fail(scene: str) -> None:
    def arm(_: SimEnv, nth: int) -> Callable[[], bool]:
        lib.hsl_alloc_fail_at(nth)
        return lambda: int(lib.hsl_alloc_count()) >= nth

    assert failures(scene, arm) > LEAST


@pytest.mark.parametrize(
    ("code", "then", "gap"),
    [
        (errno.EIO, errno.EIO, 1),
        (errno.EIO, errno.EIO, 2),
        (errno.EIO, errno.ESTALE, 2),
        (errno.ESTALE, errno.ESTALE, 1),
    ],
)
@pytest.mark.parametrize("scene", OF_READS)
def test_each_read_may_fail(scene: str, code: int, then: int, gap: int) -> None:
    """What looks at damage asks again for a part of what could not be read: that fails too."""

    def arm(env: SimEnv, nth: int) -> Callable[[], bool]:
        hits = env.disk.inject(Fail(ops=Op.PREAD | Op.SIZE, nth=nth, errno=code))
        env.disk.inject(Fail(ops=Op.PREAD, nth=nth + gap, errno=then))
        return lambda: hits() > 0

    assert failures(scene, arm) > LEAST
