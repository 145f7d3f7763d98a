"""Calls that take long: what goes on beside them neither repeats nor overtakes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hstreamlite as hs
from tests.system.ledger import small
from tests.system.machine import need
from tests.system.test_injected_errors import RESERVING
from tests.system.workers import PACKAGE

RECORDS, SIZE = 8, 2000
WRITE = """
import json, sys, threading, hstreamlite as hs
lists, records, size = map(int, sys.argv[3:])
config = hs.StoreConfig(**json.loads(sys.argv[2]))
def write(name):
    stream = store.create_stream(name)
    for number in range(lists):
        waits = {"durability": "sync"} if number % 4 == 0 else {}
        stream.append_many([number.to_bytes(4, "big") * (size // 4)] * records, **waits)
with hs.open(sys.argv[1], durability="memory", config=config) as store:
    threads = [threading.Thread(target=write, args=[name]) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def write_beside(path: Path, lists: int, file: str, shown: str, slow: str) -> list[str]:
    """Append lists while some calls on a file of the store take long; return the trace."""
    need("strace")
    trace = path.with_name("trace")
    strace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(trace),
        "-e",
        f"trace={shown}",
        "-e",
        f"inject={slow}",
    ]
    write_under([*strace, "-P", str(path / file)], path, lists, {})
    return trace.read_text().splitlines()


def write_under(
    command: list[str], path: Path, lists: int, env: dict[str, str], **options: int
) -> None:
    """Append lists from three threads in a process of its own, and read them back."""
    settings = small(segment_bytes_min=512 << 10, segment_bytes_max=512 << 10, **options)
    numbers = map(str, (lists, RECORDS, SIZE))
    subprocess.run(
        [*command, sys.executable, "-c", WRITE, str(path), json.dumps(settings), *numbers],
        env={**os.environ, "PYTHONPATH": str(PACKAGE), **env},
        check=True,
    )
    with hs.open(path) as store:
        assert store.recovery.clean
        found = [[record.payload for record in store.stream(name).read()] for name in "abc"]
    wanted = [n.to_bytes(4, "big") * (SIZE // 4) for n in range(lists) for _ in range(RECORDS)]
    assert found == [wanted] * 3


def test_the_next_segment_is_made_once_however_long_it_takes(tmp_path: Path) -> None:
    lines = write_beside(
        tmp_path / "s", 100, "segments/spare", RESERVING, f"{RESERVING}:delay_enter=100000"
    )
    assert len(lines) > 5
    assert not [line for line in lines if "unfinished" in line]


def test_a_superblock_is_synced_before_the_next_is_written(tmp_path: Path) -> None:
    """With both of its slots under way, a power cut could leave the store without any."""
    # Long enough that a segment fills up meanwhile on any machine, however busy.
    slow = "fdatasync:delay_enter=250000:when=4+6"
    lines = write_beside(tmp_path / "s", 300, "SUPER", "pwrite64,fdatasync", slow)
    calls = ["pwrite64" if "pwrite64" in line else "fdatasync" for line in lines]
    assert len(calls) > 50
    assert calls == ["pwrite64", "fdatasync"] * (len(calls) // 2)


def test_zeros_written_ahead_never_come_to_lie_on_records(tmp_path: Path, shim: str) -> None:
    """However long they take, and however many records come meanwhile."""
    slow = {"LD_PRELOAD": shim, "SHIM_ZEROS": "20000"}
    write_under([], tmp_path / "s", 100, slow, prewrite_bytes=128 << 10)
