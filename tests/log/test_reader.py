"""Scans: what a reader of one key and a reader of batches see at the tail."""

from __future__ import annotations

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import small_config


def opened(env: SimEnv | None = None) -> hs.Store:
    return hs.open("/db", config=small_config(), env=env or SimEnv(seed=1))


def test_a_reader_of_one_key_finds_at_the_tail_what_comes_under_it() -> None:
    stream = opened().create_stream("a")
    stream.append(b"of another", key="other")
    reader = stream.read(key="own", follow=True)
    assert next(reader, None) is None
    for number in range(3):
        stream.append(b"of another", key="other")
        stream.append(b"%d" % number, key="own")
        record = next(reader)
        assert (record.key, record.payload) == ("own", b"%d" % number)
        assert next(reader, None) is None


def test_a_batch_tells_what_it_holds() -> None:
    stream = opened().create_stream("a")
    stream.append_many([b"one" * 99, b"two" * 99], compression="zstd")
    (batch,) = stream.read_batches()
    size = len(batch.payload)
    assert repr(batch) == f"<Batch 1-1 records=2 bytes={size} compression=zstd>"
    assert [record.payload for record in batch.records()] == [b"one" * 99, b"two" * 99]


def test_an_index_that_cannot_be_read_is_no_empty_one() -> None:
    """The place of a record in one shard is found in the others by what the index says of it."""
    env = SimEnv(seed=1)
    with opened(env) as store:
        journal = store._engine.journal
        journal.wait(store._engine.create_stream("a", shards=3).ticket)
        stream = store.stream("a")
        ids = [stream.append(bytes(3000), key=str(number)) for number in range(90)]
    middle = len(ids) // 2
    for place in ("start", "tail"):
        env = env.process_crash()
        stream = opened(env).stream("a")
        hits = env.disk.inject(Fail(ops=Op.PREAD, path=".seg"))
        with pytest.raises(OSError, match="read"):
            _ = stream.read(start=ids[middle]) if place == "start" else stream.tail()
        assert hits() == 1
        assert stream.tail() == ids[-1]
        assert [record.id for record in stream.read(start=ids[middle])] == ids[middle:]
