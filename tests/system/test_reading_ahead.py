"""What a reader will ask the disk for is asked for before it gets there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.config import LEVELS
from tests.system.machine import need
from tests.system.test_portable import PORTABLE
from tests.system.workers import PACKAGE

pytestmark = pytest.mark.skipif(PORTABLE, reason="POSIX leaves announcing to the system")

ROUNDS, RECORDS = 100, 10
PAGE = 4096
READ = """
import sys, hstreamlite as hs
from itertools import islice
with hs.open(sys.argv[1], config=hs.StoreConfig(regroup=False)) as store:
    stream = store.stream("stream-1")
    open("/dev/null").close()
    assert sum(1 for _ in islice(stream.read(), int(sys.argv[2]))) == int(sys.argv[2])
"""
CALL = re.compile(r"(pread64|fadvise64)\((\d+)<[^>]*/(\w+)\.seg>,.* (\d+), (\d+)(?:, \w+)?\) += ")


def pages(call: str, first: int, second: int) -> set[int]:
    size, offset = (first, second) if call == "pread64" else (second, first)
    return set(range(offset // PAGE, -(-(offset + size) // PAGE)))


def asked(path: Path, records: int) -> list[tuple[str, str, set[int]]]:
    """Return what reading so many records asks for: the call, the segment, and its pages."""
    need("strace")
    log = path.with_name("calls")
    subprocess.run(
        ["strace", "-y", "-o", log, "-s", "0", sys.executable, "-c", READ, path, str(records)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        check=True,
    )
    calls = log.read_text().partition('"/dev/null"')[2].splitlines()
    found = (match.groups() for match in map(CALL.match, calls) if match)
    return [(call, name, pages(call, int(a), int(b))) for call, _fd, name, a, b in found]


@pytest.mark.parametrize(
    ("streams", "record_bytes", "segment_bytes", "regrouped"),
    [
        pytest.param(20, 100, 128 << 10, False, id="small blocks"),
        pytest.param(20, 100, 128 << 10, True, id="regrouped"),
        pytest.param(2, 10_000, 4 << 20, False, id="more than is asked for ahead in one segment"),
    ],
)
def test_one_log_of_many_is_asked_for_before_it_is_read(
    tmp_path: Path, streams: int, record_bytes: int, segment_bytes: int, regrouped: bool
) -> None:
    path = tmp_path / "store"
    config = hs.StoreConfig(
        segment_bytes_min=segment_bytes // 2, segment_bytes_max=segment_bytes, regroup=False
    )
    with hs.open(path, durability="memory", config=config) as store:
        logs = [store.create_stream(f"stream-{number}") for number in range(streams)]
        for _ in range(ROUNDS):
            for stream in logs:
                stream.append_many([b"x" * record_bytes] * RECORDS)
        if regrouped:
            store.compact()
    announced: dict[str, set[int]] = {}
    read: dict[str, set[int]] = {}
    for call, segment, these in asked(path, ROUNDS * RECORDS):
        into = read if call == "pread64" else announced
        into.setdefault(segment, set()).update(these)
        if call == "pread64" and list(read).index(segment) > 2:
            assert read[segment] - {0} <= announced.get(segment, set()), segment
    assert len(read) >= 4


def test_blocks_of_the_next_segment_are_asked_for_before_those_of_one_are_read(
    tmp_path: Path,
) -> None:
    """At the last of them it would be too late: the disk takes as long as reading them."""
    path = tmp_path / "store"
    config = hs.StoreConfig(segment_bytes_min=128 << 10, segment_bytes_max=128 << 10, regroup=False)
    with hs.open(path, durability="memory", config=config) as store:
        logs = [store.create_stream(f"stream-{number}") for number in range(2)]
        for _ in range(10 * ROUNDS):
            for stream in logs:
                stream.append_many([b"x" * 20] * RECORDS)
    when: dict[tuple[str, str], int] = {}
    for number, (call, segment, these) in enumerate(asked(path, 10 * ROUNDS * RECORDS)):
        if 1 in these:  # of the blocks, not of their rows
            when.setdefault((call, segment), number)
    order = [segment for call, segment in when if call == "pread64"]
    assert len(order) >= 6
    for segment, following in pairwise(order[1:]):
        assert when["fadvise64", following] < when["pread64", segment]


def test_a_block_that_begins_in_the_last_page_read_is_asked_for_with_those_behind_it(
    tmp_path: Path,
) -> None:
    path, size = tmp_path / "store", 90_000
    config = hs.StoreConfig(segment_bytes_min=16 << 20, segment_bytes_max=16 << 20, regroup=False)
    with hs.open(path, durability="memory", config=config) as store:
        stream, other = (store.create_stream(f"stream-{number}") for number in (1, 2))
        for times in (3, 1, 1):
            for _ in range(times):
                stream.append_many([b"x" * size])
            other.append_many([b"x" * size])
    calls = asked(path, 5)
    announced = {page for call, _segment, of in calls if call == "fadvise64" for page in of}
    first, second, *others = [of for call, _segment, of in calls if call == "pread64"]
    assert len(others) == 3
    assert not announced & (first | second)
    assert set.union(*others) <= announced | second


def test_of_a_large_segment_no_more_is_asked_for_than_is_read_soon(tmp_path: Path) -> None:
    path, streams, small, large = tmp_path / "store", 100, 40, 1000
    for size, rounds in ((64 << 10, small), (64 << 20, large)):
        config = hs.StoreConfig(segment_bytes_min=size, segment_bytes_max=size, regroup=False)
        with hs.open(path, durability="memory", config=config) as store:
            opened = [store.create_stream(f"stream-{n}", exists_ok=True) for n in range(streams)]
            for _ in range(rounds):
                for stream in opened:
                    stream.append(b"x" * 200)
    calls = asked(path, small - 1)
    announced = {(name, page) for call, name, of in calls if call == "fadvise64" for page in of}
    last = max(name for name, _page in announced)
    assert 0 < sum(name == last for name, _page in announced) <= (6 << 20) // PAGE


def test_of_very_many_rows_of_one_log_the_first_are_asked_for(tmp_path: Path) -> None:
    """Whoever reads on asks for the others."""
    path, body = tmp_path / "store", b"x" * 100
    for size in (512 << 10, 64 << 20):
        config = hs.StoreConfig(segment_bytes_min=size, segment_bytes_max=size, regroup=False)
        with hs.open(path, durability="memory", config=config) as store:
            stream = store.create_stream("stream-1", exists_ok=True)
            for _ in range(ROUNDS):
                stream.append(b"x" * 3000)
            if size > 1 << 20:
                (shard,) = store._engine.stream("stream-1").shard_ids
                for _ in range(140):
                    blocks = [(shard, 0, body, 1 << 28, len(body))] * 1000
                    store._engine.journal.stage(blocks, LEVELS["memory"])
    calls = asked(path, ROUNDS)
    announced = {(name, page) for call, name, of in calls if call == "fadvise64" for page in of}
    last = max(name for name, _page in announced)
    rows = sum(name == last for name, _page in announced)
    assert 256 <= rows < 300  # a MiB, and perhaps the first of its blocks


def test_a_file_that_is_gone_when_it_is_asked_for_is_told_when_it_is_read(tmp_path: Path) -> None:
    """Asking ahead fails in silence; what comes before that file is read first."""
    config = hs.StoreConfig(segment_bytes_min=128 << 10, segment_bytes_max=128 << 10, regroup=False)
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("a")
        for n in range(100):
            stream.append(b"%4d;" % n * 1000, durability="memory")
    with hs.open(tmp_path / "s", config=config) as store:
        *_, gone, _ = sorted((tmp_path / "s" / "segments").glob("*.seg"))
        gone.unlink()
        found = []
        with pytest.raises(OSError, match=gone.name):
            for record in store.stream("a").read():
                found.append(record.payload)
        assert found == [b"%4d;" % n * 1000 for n in range(len(found))]
        assert found
