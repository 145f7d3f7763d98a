"""A small ext4, filled to the last block: an error that says so, and a store that goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hstreamlite as hs

DISK_BYTES = 32 << 20
CONFIG = hs.StoreConfig(
    segment_bytes_min=256 << 10, segment_bytes_max=1 << 20, retention_interval=3600
)
RECORD = os.urandom(20_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a file system of its own needs root and mkfs.ext4")
    image, mounted = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(mounted)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        # Lazily: a test that failed may have left a store open, which must not spoil the others.
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


@pytest.fixture
def path(disk: Path) -> Path:
    return disk / "s"


def fill(stream: hs.Stream, size: int = len(RECORD)) -> list[hs.RecordId]:
    """Append until the disk is full; return the ids of what was acknowledged."""
    ids = []
    for _ in range(2):
        with pytest.raises(hs.StorageFull) as caught:
            while True:
                ids.append(stream.append(RECORD[:size]))
        assert caught.value.retryable
        assert caught.value.outcome == "none"
        assert caught.value.errno == errno.ENOSPC
        os.sync()  # then ext4 gives back blocks that were freed before
    return ids


def ballast(disk: Path) -> Path:
    """Fill the rest of the disk with a file of another program."""
    file = disk / "ballast"
    with file.open("wb", buffering=0) as output:
        for piece in (1 << 16, 512):
            with pytest.raises(OSError, match="No space left"):
                while output.write(bytes(piece)) == piece:
                    pass
                raise OSError(errno.ENOSPC, "No space left")
    return file


def remove(file: Path) -> None:
    """Delete a file and wait until ext4 has given its blocks back."""
    file.unlink()
    os.sync()


def ids_of(stream: hs.Stream) -> list[hs.RecordId | None]:
    return [record.id for record in stream.read()]


def test_a_full_disk_refuses_appends_is_told_of_and_loses_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hs.open(path, config=CONFIG) as store:
        stream = store.create_stream("orders")
        ids = fill(stream)
        assert len(ids) > 500
        ids += fill(stream, size=100)
        for call in (
            lambda: stream.append_many([RECORD] * 20),
            lambda: commit(store, 20),
        ):
            with pytest.raises(hs.StorageFull) as caught:
                call()
            assert caught.value.outcome == "none"
        assert ids_of(stream) == ids
        assert store.stats().log["failed"] == 0
        now = time.monotonic_ns()
        for seconds in (61, 62, 122, 183):  # nothing new was refused after the first
            store._ticker._tell_full(now + seconds * 10**9)
        with pytest.raises(hs.StorageFull):
            stream.append_many([RECORD] * 20)
        store._ticker._tell_full(now + 184 * 10**9)
    told = [line for line in caplog.messages if "no room on the disk" in line]
    assert 2 <= len(told) <= 3, "the store may have told of the first by itself"
    assert "1 appends were refused" in told[-1]
    with hs.open(path, config=CONFIG) as store:
        assert store.recovery.clean
        assert ids_of(store.stream("orders")) == ids


def commit(store: hs.Store, count: int) -> None:
    with store.transaction() as tx:
        for _ in range(count):
            tx.append("orders", RECORD)


def test_acks_trims_and_deletions_work_on_a_full_disk_and_make_room(path: Path) -> None:
    with hs.open(path, config=CONFIG) as store:
        old, new = store.create_stream("old"), store.create_stream("new")
        for _ in range(300):
            old.append(RECORD)
        subscription = store.create_subscription("s", stream="new")
        ids = fill(new)
        with subscription.consumer("c") as consumer:
            while batch := consumer.receive(100, timeout=0):
                assert consumer.ack(batch).new == len(batch)
        fill(new)  # what acks have made superfluous may have made room meanwhile
        store.delete_stream("old")
        more = [new.append(RECORD) for _ in range(200)]
        fill(new)
        new.trim(before=more[0])
        again = [new.append(RECORD) for _ in range(len(ids) // 2)]
        assert ids_of(new)[:200] == more
        assert ids_of(new)[-len(again) :] == again
    with hs.open(path, config=CONFIG) as store:
        new = store.stream("new")
        assert [info.name for info in store.streams()] == ["new"]
        assert ids_of(new)[:200] == more
        with store.subscription("s").consumer("c") as consumer:
            first = consumer.receive(1, timeout=0)[0]
            assert first.id == more[0]
            assert first.attempt == 1


def test_room_that_another_program_takes_and_gives_back(disk: Path, path: Path) -> None:
    with hs.open(path, config=CONFIG) as store:
        stream = store.create_stream("orders")
        ids = [stream.append(RECORD) for _ in range(50)]
        file = ballast(disk)
        ids += fill(stream)
        for _ in range(3):
            with pytest.raises(hs.StorageFull):
                stream.append(RECORD)
        stream.trim(before=ids[1])
        remove(file)
        ids += [stream.append(RECORD) for _ in range(100)]
        assert ids_of(stream) == ids[1:]
    with hs.open(path, config=CONFIG) as store:
        assert ids_of(store.stream("orders")) == ids[1:]


def test_catalog_changes_on_a_full_disk_happen_or_say_that_it_is_full(
    disk: Path, path: Path
) -> None:
    made = ["orders"]
    with hs.open(path, config=CONFIG) as store:
        fill(store.create_stream("orders"))
        ballast(disk)
        refused: hs.StorageFull | None = None
        for number in range(20_000):
            try:
                store.create_stream(f"s{number}")
            except hs.StorageFull as error:
                refused = error
                break
            made.append(f"s{number}")
        assert refused is not None
        assert refused.outcome == "none"
        assert sorted(info.name for info in store.streams()) == sorted(made)
    with hs.open(path, config=CONFIG) as store:
        assert sorted(info.name for info in store.streams()) == sorted(made)


def test_a_store_opens_on_a_full_disk_after_a_crash(disk: Path, path: Path) -> None:
    other = disk / "other"
    other.write_bytes(bytes(4 << 20))
    with hs.open(path, config=CONFIG) as store:
        stream = store.create_stream("orders")
        store.create_subscription("s", stream="orders")
        ids = fill(stream)
        copy = disk.parent / "crashed"
        shutil.copytree(path, copy)
        unbuffered = store.stats().log["direct"]
    shutil.rmtree(path)
    shutil.copytree(copy, path)
    file = ballast(disk)
    if not unbuffered:  # what the system's cache holds may be lost: the tail is written anew
        try:
            hs.open(
                path, config=CONFIG
            ).close()  # by what the reserve gave back, if that was enough
        except hs.StorageFull:
            remove(other)
        with hs.open(path, config=CONFIG) as store:
            assert ids_of(store.stream("orders")) == ids
        return
    with hs.open(path, config=CONFIG) as store:
        stream = store.stream("orders")
        assert ids_of(stream) == ids
        with store.subscription("s").consumer("c") as consumer:
            batch = consumer.receive(100, timeout=0)
            assert consumer.ack(batch).new == len(batch) > 0
        with pytest.raises(hs.StorageFull):
            stream.append(RECORD)
        remove(file)
        stream.trim(before=ids[len(ids) // 2])
        stream.append(RECORD)
    with hs.open(path, config=CONFIG) as store:
        assert len(ids_of(store.stream("orders"))) == len(ids) - len(ids) // 2 + 1


def test_a_store_that_cannot_be_created_leaves_a_directory_that_can(disk: Path, path: Path) -> None:
    file = ballast(disk)
    with (
        pytest.raises(OSError, match=r"(?i)no (space|room)"),
        hs.open(path, config=CONFIG) as store,
    ):
        store.create_stream("orders")
    remove(file)
    with hs.open(path, config=CONFIG) as store:
        store.create_stream("orders").append(RECORD)
        assert len(ids_of(store.stream("orders"))) == 1


def test_the_mapped_stage_on_a_full_disk(disk: Path, path: Path) -> None:
    with hs.open(path, config=CONFIG) as store:
        stream = store.create_stream("orders")
        ids = [stream.append(RECORD) for _ in range(10)]
        file = ballast(disk)
        with pytest.raises(hs.StorageFull) as caught:
            stream.append(RECORD, durability="os")
        assert caught.value.outcome == "none"
        assert not (path / "STAGE").exists()
        assert store.stats().log["failed"] == 0
        remove(file)
        ids.append(stream.append(RECORD, durability="os"))
        file = ballast(disk)
        with pytest.raises(hs.StorageFull):
            while True:
                ids.append(stream.append(RECORD, durability="os"))
        store.sync()
        assert ids_of(stream) == ids
        remove(file)
        ids.append(stream.append(RECORD, durability="os"))
    with hs.open(path, config=CONFIG) as store:
        assert ids_of(store.stream("orders")) == ids


def test_a_producer_on_a_full_disk_ends_with_the_error(path: Path) -> None:
    with hs.open(path, config=CONFIG) as store:
        stream = store.create_stream("orders")
        producer = stream.producer(batch_bytes=100_000)
        submitted = []
        with pytest.raises(hs.StorageFull):
            while True:
                submitted.append(producer.submit(RECORD))
        stored = ids_of(stream)
        done = []
        for pending in submitted:
            try:
                done.append(pending.result())
            except hs.StorageFull:
                break
        assert stored[: len(done)] == done
        store.sync()
        assert ids_of(stream) == done
        with pytest.raises(hs.StorageFull):
            producer.close()
