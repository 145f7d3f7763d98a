"""What a key table handed out is told whole, whatever is handed out while it is being told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hstreamlite.sub.ackmap import AckMap
from hstreamlite.sub.keytab import KeyTable
from tests.sub.taking import collecting
from tests.system.workers import PACKAGE, TESTS

RECORDS = 2000
FIRST = 20
"""So many are handed out before they are told: far less than meanwhile."""


def table_of_runs() -> KeyTable:
    """Return a table whose records go out one by one: each second is of a key that another has."""
    table = KeyTable(AckMap(1, RECORDS))
    keys = [1 if n % 2 else n for n in range(1, RECORDS + 1)]
    table.describe(1, b"".join(key.to_bytes(8, "little") for key in keys))
    hand_out(table, 1, 1)
    return table


def hand_out(table: KeyTable, consumer: int, most: int) -> int:
    _, _, parcel, _ = table.take(consumer, 0, most, most, RECORDS + 1)
    records, _ = table.confirm(parcel, most, 1 << 60)
    return records


def tell_meanwhile(objects: int) -> bool:
    """Hand out more when so many objects were made; tell whether that was amid the telling."""
    table = table_of_runs()
    assert hand_out(table, 2, FIRST) == FIRST
    ran: list[int] = []
    with collecting(lambda: ran.append(hand_out(table, 2, RECORDS)), objects):
        told = table.handed(1)
        amid = bool(ran) and len(told) == FIRST  # 1 and 2 meet
    told += table.handed(1)
    assert max(end for _, end, _ in told) == RECORDS + 1
    lsns = [lsn for first, end, _ in told for lsn in range(first, end)]
    assert sorted(lsns) == [1, *range(2, RECORDS + 1, 2)]
    return amid


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="there collections come between instructions only"
)
def test_nothing_is_written_behind_what_there_is_room_for() -> None:
    """Python looks behind the memory that it gives back, where it is told to."""
    paths = os.pathsep.join(dict.fromkeys([str(PACKAGE), str(TESTS)]))
    script = (
        "from tests.sub.test_handed import tell_meanwhile\n"
        "print(sum(map(tell_meanwhile, range(24))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
