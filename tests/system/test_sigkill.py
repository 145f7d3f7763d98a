"""SIGKILL of writing and acking processes: what was acknowledged is there, once, and in order.

A worker appends, and reports each acknowledged group through a pipe. The test counts, kills the
worker after so many acknowledgements, and goes on reading: what lies in the pipe was acknowledged
before the kill. Then it opens the store itself and compares.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

import hstreamlite as hs

PACKAGE = Path(hs.__file__).parent.parent
WORKER = Path(__file__).parent / "killed_worker.py"
KILLS = 50
ACKNOWLEDGED_BETWEEN_KILLS = 1000
DELIVERED = 25_000
PROGRESS_ACKS = 100
SEEN, ACKED = 0, 1
SEED = 20


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
    )


def numbers(pipe: IO[bytes]) -> Iterator[list[int]]:
    """Yield the groups reported, a line each; a torn last line was not reported."""
    for line in pipe:
        if line.endswith(b"\n"):
            yield [int(word) for word in line.split()]


def killed_after(worker: subprocess.Popen[bytes], acknowledged: int) -> list[int]:
    """Kill the worker once it has reported so many; return all that it reported."""
    found: list[int] = []
    assert worker.stdout is not None
    with worker.stdout as pipe:
        for group in numbers(pipe):
            found += group
            if len(found) >= acknowledged and worker.returncode is None:
                worker.send_signal(signal.SIGKILL)
                acknowledged = sys.maxsize
    assert worker.wait() == -signal.SIGKILL
    return found


def stored(stream: hs.Stream) -> list[int]:
    found = []
    for record in stream.read():
        assert isinstance(record.payload, bytes)
        number, _, check = record.payload.partition(b" ")
        assert check == b"%d" % (int(number) * 2654435761 % 2**32)
        assert record.key == f"k{int(number) % 7}"
        found.append(int(number))
    return found


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return say


@pytest.mark.parametrize("level", ["sync", "os"])
def test_no_acknowledged_record_is_lost_by_sigkill(
    tmp_path: Path, level: str, say: Callable[[str], None]
) -> None:
    path = tmp_path / "s"
    random_ = random.Random(SEED)
    with hs.open(path) as store:
        store.create_stream("orders")
    known: set[int] = set()
    acknowledged, checked, kept, first = 0, 0, 0, 1
    for _ in range(KILLS):
        worker = start("append", path, level, first)
        reported = killed_after(worker, ACKNOWLEDGED_BETWEEN_KILLS + random_.randrange(200))
        acknowledged += len(reported)
        with hs.open(path) as store:
            assert not store.recovery.clean
            found = stored(store.stream("orders"))
            assert set(reported) <= set(found), "acknowledged records are lost"
            assert found[: len(known)] == list(range(1, len(known) + 1)), "records changed"
            assert found == list(range(1, len(found) + 1)), "foreign, double or out of order"
        known = set(found)
        kept += len(known) - (first - 1) - len(reported)
        checked += len(found)
        first = len(found) + 1
    say(
        f"level {level}: {KILLS} kills, {acknowledged} acknowledged, 0 lost, 0 foreign, "
        f"0 double, {kept} in flight kept, {checked} records read back"
    )


def test_no_ack_older_than_the_persist_bound_is_forgotten_by_sigkill(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    path = tmp_path / "s"
    random_ = random.Random(SEED)
    config = hs.StoreConfig(progress_acks=PROGRESS_ACKS, progress_interval=60)
    with hs.open(path, config=config) as store:
        stream = store.create_stream("orders")
        stream.append_many([b"%d" % n for n in range(1, DELIVERED + 1)])
        store.create_subscription("s", stream="orders", ack_timeout=3600)
    acked: list[int] = []
    synced, kills, again, most = 0, 0, 0, 0
    while len(set(acked)) < DELIVERED:
        worker = start("ack", path, PROGRESS_ACKS)
        limit = len(acked) + ACKNOWLEDGED_BETWEEN_KILLS + random_.randrange(200)
        seen: list[int] = []
        bygone, unsynced = set(acked[: max(0, synced - PROGRESS_ACKS)]), len(acked) - synced
        assert worker.stdout is not None
        with worker.stdout as pipe:
            for kind, *group in numbers(pipe):
                if kind == SEEN:
                    seen += group
                elif kind == ACKED:
                    acked += group
                else:
                    synced = len(acked)
                if len(acked) >= limit:
                    worker.send_signal(signal.SIGKILL)
                    limit = sys.maxsize
        ended = worker.wait()
        assert ended in (0, -signal.SIGKILL)
        kills += ended != 0
        assert len(set(seen)) == len(seen), "delivered twice to one consumer"
        assert not bygone & set(seen), "persisted acks are forgotten"
        repeated = len(seen) - len(set(seen) - set(acked[: len(acked) - len(seen)]))
        assert repeated <= unsynced + PROGRESS_ACKS
        again, most = again + repeated, max(most, repeated)
    assert set(acked) == set(range(1, DELIVERED + 1)), "records were never delivered"
    with hs.open(path) as store, store.subscription("s").consumer("c") as consumer:
        rest = consumer.receive(DELIVERED, timeout=0)
        assert len(rest) <= len(acked) - synced + PROGRESS_ACKS
    say(f"acks: {kills} kills, {DELIVERED} acked, {again} came again, at most {most} after a kill")
