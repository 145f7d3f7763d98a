"""A salvaged store is regrouped like any other: what was lost does not keep it from that.

A file of level 1 holds of each log one run without holes, so none spans a hole.
"""

from __future__ import annotations

import os

import hstreamlite as hs
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from tests.log import format_reader
from tests.log.scripted import batch, fresh, must
from tests.tools.test_salvage import opened, read

NAMES = ("a", "b", "c", "d")


def holed_store() -> SimEnv:
    """Four streams scattered over many segments; of three of them some blocks are lost."""
    w = fresh()
    for name in NAMES:
        must(w.create(name))
    for number in range(40):
        for name in NAMES:
            must(w.append(name, batch(f"{name}{number}", 2, 1500)))
    w.restart("close", reopen=False)
    disk = w.env.disk
    files = {path.removeprefix("/db/"): disk.read_all(path) for path in disk.walk("/db")}
    for segment in format_reader.read_store(files).segments:
        for row, block in segment.blocks:
            lost = {1: (23, 45, 67), 2: (23, 45, 67), 3: (45,)}
            if block.seq in lost.get(block.shard, ()):
                path = f"/db/segments/{segment.number:016x}.seg"
                disk.zero_range(path, row.off8 * 8 + 60, 8)
    report = salvage(w.env, "/db", "/new")
    assert report.records == 40 * 2 * 4 - 7 * 2
    return w.env


def numbers(env: SimEnv) -> list[int]:
    names = env.files.listdir("/new/segments")
    return [int(name[:16], 16) for name in names if name.endswith(".seg")]


def test_salvaged_store_is_regrouped_around_its_holes() -> None:
    env = holed_store()
    with opened(env, "/new") as store:
        before, gaps = read(store)
        assert gaps == 7
        store.compact()
        assert read(store) == (before, gaps)
        again = numbers(env)
        store.compact()
        assert numbers(env) == again, "regrouped without end"
    regrouped = [number for number in numbers(env) if number >= LEVEL_1]
    assert 4 <= len(regrouped) < 14
    report = check(env, "/new")
    assert report.sound, list(report.lines())
    with opened(env, "/new") as store:
        assert read(store) == (before, gaps)
        for name in NAMES:
            store.stream(name).append(b"goes on")
        store.stream("a").trim(before=store.stream("a").tail())
        store.compact()
        assert len(read(store)[0]) == sum(shard != 1 for shard, _ in before) + 4


def test_backup_of_a_store_with_holes_has_them_too() -> None:
    env = holed_store()
    with opened(env, "/new") as store:
        held = read(store)
        store.compact()
        store.backup("/copy")
    with opened(env, "/copy") as copy:
        assert read(copy) == held


def test_forked_child_lets_go_of_a_regrouping_without_touching_its_file(
    tmp_path: os.PathLike[str],
) -> None:
    with hs.open(tmp_path, config=small_config()) as store:
        streams = [store.create_stream(name) for name in NAMES]
        for number in range(20):
            for stream in streams:
                stream.append_many([b"%d" % number + b"." * 2000] * 4)
    with hs.open(tmp_path, config=small_config()) as store:
        regrouper = store._ticker.house.regrouper
        while regrouper._swap is None:
            assert regrouper.step(now=True)
        pid = os.fork()
        if pid == 0:
            regrouper._swap.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        store.compact()
        assert [n for n in os.listdir(f"{os.fspath(tmp_path)}/segments") if n > "00000000800"]
