"""What is read ahead of a cursor, in a thread, is what it would have read itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.log.catalog import SHARD_BASE
from hstreamlite.log.journal import Cursor

RECORDS, SIZE = 60, 100_000
"""Several times what is read at once."""


def payload(number: int) -> bytes:
    return number.to_bytes(4, "little") * (SIZE // 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with hs.open(tmp_path / "s") as store:
        stream = store.create_stream("a")
        for number in range(RECORDS):
            stream.append(payload(number), durability="memory")
    return tmp_path / "s"


def cursor(store: hs.Store, lsn: int = 1) -> Cursor:
    return store._engine.journal.cursor(SHARD_BASE + 1, lsn)


def numbers(reader: Cursor, most: int = RECORDS) -> Iterator[int]:
    while most > 0 and (records := reader.read(1)):
        assert records[0].payload == payload(records[0].payload[0])
        most -= 1
        yield records[0].payload[0]


def test_a_scan_reads_each_record_once(path: Path) -> None:
    with hs.open(path) as store:
        before = store.stats().log["bytes_read"]
        assert list(numbers(cursor(store))) == [*range(RECORDS)]
        read = store.stats().log["bytes_read"] - before
        assert RECORDS * SIZE <= read < (RECORDS + 2) * SIZE


def test_cursors_that_scan_side_by_side_and_turn_back_read_what_is_there(path: Path) -> None:
    with hs.open(path) as store:
        scans = [cursor(store, 1 + 5 * n) for n in range(4)]
        found = [[*numbers(scan, 30)] for scan in scans]
        assert found == [[*range(5 * n, 5 * n + 30)] for n in range(4)]
        for n, scan in enumerate(scans):
            scan.seek(1 + n)
        assert [[*numbers(scan, 25)] for scan in scans] == [[*range(n, n + 25)] for n in range(4)]


def test_what_is_read_ahead_goes_with_its_cursor_and_with_the_store(path: Path) -> None:
    with hs.open(path) as store:
        for _ in range(5):
            assert len([*numbers(cursor(store), 25)]) == 25
        left = [cursor(store) for _ in range(5)]
        for scan in left:
            assert len([*numbers(scan, 25)]) == 25
    with pytest.raises(hs.StoreClosed):
        while True:
            assert left[0].read(1)


def test_damage_in_what_was_read_ahead_is_found_where_it_is(path: Path) -> None:
    for file in (path / "segments").iterdir():
        if (at := file.read_bytes().find(payload(50)[:4096])) >= 0:
            with file.open("r+b") as segment:
                segment.seek(at + 100)
                segment.write(b"X")
    with hs.open(path) as store:
        scan = cursor(store)
        found: list[int] = []
        with pytest.raises(hs.CorruptionError):
            found.extend(numbers(scan))
        assert scan.lsn in (50, 51)


def test_a_file_that_is_gone_is_told_of_where_a_cursor_gets_to_it(tmp_path: Path) -> None:
    """Nobody hears of it before, though it was asked for, and what comes back is read on."""
    config = hs.StoreConfig(segment_bytes_min=1 << 20, segment_bytes_max=1 << 20)
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("a")
        for number in range(RECORDS):
            stream.append(payload(number), durability="memory")
    with hs.open(tmp_path / "s", config=config) as store:
        file = sorted((tmp_path / "s" / "segments").iterdir())[4]
        away = file.rename(tmp_path / "away")
        scan, found = cursor(store), list[int]()
        with pytest.raises(hs.StorageUnavailable, match=f"{file.name}.*No such file"):
            found.extend(numbers(scan))
        assert found == [*range(scan.lsn - 1)]
        assert 20 < len(found) < RECORDS
        away.rename(file)
        assert found + list(numbers(scan)) == [*range(RECORDS)]
