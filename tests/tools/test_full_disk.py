"""A disk that another program fills while a backup, a salvage or a regrouping is at work.

Goal: the error says so, nothing half done is left, the store goes on, and the same works when there
is room again. Method: an ext4 of 32 MiB that the progress callback fills to the last block.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite._native.files import real_env
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from tests.test_full_disk import ballast, disk, remove

__all__ = ["disk"]

CONFIG = hs.StoreConfig(
    segment_bytes_min=256 << 10, segment_bytes_max=1 << 20, retention_interval=3600
)
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def path(disk: Path) -> Path:
    """Four streams scattered over 8 MiB."""
    path = disk / "s"
    with hs.open(path, config=CONFIG) as store:
        streams = [store.create_stream(name) for name in NAMES]
        for number in range(100):
            for stream in streams:
                stream.append_many([b"%d" % number + b"." * 2000] * 10)
    return path


def content(store: hs.Store) -> dict[str, list[tuple[int, object]]]:
    return {
        name: [(r.id.lsn, r.payload) for r in store.stream(name).read() if r.id] for name in NAMES
    }


class Filling:
    """Progress that fills the disk when it is told of so many steps."""

    def __init__(self, disk: Path, at: int) -> None:
        self.disk = disk
        self.left = at
        self.file: Path | None = None

    def __call__(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.file = ballast(self.disk)


def attempts(run: Callable[[Filling], object], disk: Path, target: Path) -> int:
    """Fill the disk at each step in turn; return how often that was an error."""
    failed = at = 0
    while True:
        at += 1
        filling = Filling(disk, at)
        try:
            run(filling)
        except hs.StorageFull as error:
            failed += 1
            assert str(target) in str(error)
            assert not target.exists()
            assert not target.with_name(f"{target.name}.partial").exists()
        else:
            assert check(real_env(), str(target)).sound
            shutil.rmtree(target)
        if filling.file is None:
            return failed
        remove(filling.file)


def test_backup_on_a_disk_that_fills_up_leaves_nothing(disk: Path, path: Path) -> None:
    with hs.open(path, config=CONFIG) as store:
        held = content(store)
        assert attempts(
            lambda fill: store.backup(disk / "copy", progress=fill), disk, disk / "copy"
        )
        store.stream("a").append(b"goes on")
        assert content(store).items() >= {n: held[n] for n in NAMES[1:]}.items()


def test_salvage_on_a_disk_that_fills_up_leaves_nothing(disk: Path, path: Path) -> None:
    segment = sorted((path / "segments").glob("*.seg"))[2]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    assert attempts(
        lambda fill: salvage(real_env(), str(path), str(disk / "new"), fill), disk, disk / "new"
    )


def test_too_small_a_disk_is_told_before_a_backup_begins(disk: Path, path: Path) -> None:
    file = ballast(disk)
    with hs.open(path, config=CONFIG) as store:
        with pytest.raises(hs.StorageFull, match=r"No room for [0-9]{7,} more bytes"):
            store.backup(disk / "copy")
        remove(file)
        store.backup(disk / "copy")


def test_regrouping_on_a_full_disk_changes_nothing(disk: Path, path: Path) -> None:
    with hs.open(path, config=CONFIG) as store:
        held = content(store)
        file = ballast(disk)
        with suppress(hs.StorageFull):
            store.compact()
        assert content(store) == held
        assert not (path / "segments" / "regroup").exists()
        remove(file)
        store.compact()
        assert content(store) == held
    assert [p for p in (path / "segments").iterdir() if p.name.startswith("000000008")]
    assert check(real_env(), str(path)).sound
