"""A process that has no more files to open: the store says so, and goes on when it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.system.workers import PACKAGE

RECORDS = 3000
APPEND = """
import os, resource, sys, hstreamlite as hs
config = hs.StoreConfig(segment_bytes_min=1 << 20, segment_bytes_max=1 << 20)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with hs.open(sys.argv[1], config=config) as store:
    stream = store.create_stream("a")
    for number in range(int(sys.argv[3])):
        stream.append(number.to_bytes(4, "big") * 250)
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for number in range(int(sys.argv[3]), int(sys.argv[2])):
        try:
            stream.append(number.to_bytes(4, "big") * 250)
        except hs.StorageUnavailable as error:
            assert error.retryable and error.outcome == "none" and "ulimit -n" in str(error)
            print("told")
            while taken:
                os.close(taken.pop())
            stream.append(number.to_bytes(4, "big") * 250)
"""


@pytest.mark.parametrize("before", [0, 100, 600, 1000])
def test_a_store_goes_on_after_files_ran_out(tmp_path: Path, before: int) -> None:
    run = [sys.executable, "-c", APPEND, str(tmp_path / "s"), str(RECORDS), str(before)]
    done = subprocess.run(
        run, env={"PYTHONPATH": str(PACKAGE)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert before > 0 or done.stdout == "told\n"
    with hs.open(tmp_path / "s") as store:
        found = [int.from_bytes(r.payload[:4], "big") for r in store.stream("a").read()]
    assert found == [*range(RECORDS)]
