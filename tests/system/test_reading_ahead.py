"""What a reader will ask the disk for is asked for before it gets there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.system.machine import need
from tests.system.test_portable import PORTABLE
from tests.system.workers import PACKAGE

ROUNDS, RECORDS = 100, 10
PAGE = 4096
READ = f"""
import sys, hstreamlite as hs
with hs.open(sys.argv[1], config=hs.StoreConfig(regroup=False)) as store:
    stream = store.stream("stream-1")
    open("/dev/null").close()
    assert sum(1 for _ in stream.read()) == {ROUNDS * RECORDS}
"""
CALL = re.compile(r"(pread64|fadvise64)\((\d+)<[^>]*/(\w+)\.seg>,.* (\d+), (\d+)(?:, \w+)?\) += ")


def pages(call: str, first: int, second: int) -> set[int]:
    size, offset = (first, second) if call == "pread64" else (second, first)
    return set(range(offset // PAGE, -(-(offset + size) // PAGE)))


@pytest.mark.skipif(PORTABLE, reason="POSIX leaves announcing to the system")
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
    need("strace")
    path, log = tmp_path / "store", tmp_path / "calls"
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
    subprocess.run(
        ["strace", "-y", "-o", log, "-s", "0", sys.executable, "-c", READ, path],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        check=True,
    )
    calls = log.read_text().partition('"/dev/null"')[2].splitlines()
    announced: dict[str, set[int]] = {}
    read: dict[str, set[int]] = {}
    for match in filter(None, map(CALL.match, calls)):
        call, _fd, segment, first, second = match.groups()
        into = read if call == "pread64" else announced
        into.setdefault(segment, set()).update(pages(call, int(first), int(second)))
        if call == "pread64" and list(read).index(segment) > 2:
            assert read[segment] - {0} <= announced.get(segment, set()), segment
    assert len(read) >= 4
