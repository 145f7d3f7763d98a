"""A forked child may not use its parent's store: each use ends with Forked, none hangs."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import hstreamlite as hs

PACKAGE = Path(hs.__file__).parent.parent
HANGS_AFTER_SECONDS = 30
SCRIPT_SECONDS = 90

# Forking beside threads is what is tested here; newer Pythons warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(run: Callable[[], object]) -> Any:
    """Run in a forked child; return what it returned. A child that hangs tells where."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        leave(run, reader, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"child ended with {status}, said {answer!r}"
    return pickle.loads(answer)


def tell_where_it_hangs() -> None:
    """Have the alarm print a traceback, then kill."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.register(signal.SIGALRM, file=2, chain=True)
    signal.alarm(HANGS_AFTER_SECONDS)


def leave(run: Callable[[], object], reader: int, writer: int) -> NoReturn:
    """End a child without the parent's exit handlers, which are pytest's."""
    tell_where_it_hangs()
    try:
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(run()))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing may return into the parent's test
        traceback.print_exc()
    finally:
        os._exit(1)


def outcomes(calls: dict[str, Callable[[], object]]) -> dict[str, str]:
    """Call each; return the name of what it raised, or that it returned."""
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the outcome is judged by the test
            found[name] = type(error).__name__
        else:
            found[name] = "returned"
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[hs.Store]:
    # Neither marker nor progress is written while a test compares the files before and after.
    config = hs.StoreConfig(idle_mark=3600, progress_interval=60)
    with hs.open(tmp_path / "s", config=config) as store:
        yield store


def payloads(stream: hs.Stream) -> list[object]:
    return [record.payload for record in stream.read()]


def files_of(path: str) -> dict[str, bytes]:
    # The parent's writer may still be writing zeros ahead.
    return {str(p): p.read_bytes().rstrip(b"\0") for p in Path(path).rglob("*") if p.is_file()}


def uses_of(store: hs.Store) -> dict[str, Callable[[], object]]:
    """Return every use of everything a store gives."""
    here = {
        "compact": store.compact,
        "backup": lambda: store.backup(f"{store.path}.copy"),
        "tick": store.tick,
    }
    return here | nouns_of(store)


def nouns_of(store: Any) -> dict[str, Callable[[], object]]:
    """Return every use of what a store gives, be it of another process."""
    stream = store.create_stream("orders", exists_ok=True)
    stream.append_many([b"%d" % n for n in range(100)])
    subscription = store.create_subscription("s", stream="orders", exists_ok=True)
    consumer = subscription.consumer("c")
    batch = consumer.receive(10)
    producer = stream.producer(batch_age=3600)
    submitted = producer.submit(b"submitted")
    fresh, following = stream.read(), stream.read(start=hs.LATEST, follow=True)
    batches = stream.read_batches()
    tx = store.transaction()
    tx.append("orders", b"in a transaction")
    return {
        "append": lambda: stream.append(b"x"),
        "append os": lambda: stream.append(b"x", durability="os"),
        "append memory": lambda: stream.append(b"x", durability="memory"),
        "append_many": lambda: stream.append_many([b"x"]),
        "read": stream.read,
        "read_batches": stream.read_batches,
        "producer": stream.producer,
        "tail": stream.tail,
        "stream info": stream.info,
        "trim": lambda: stream.trim(before=hs.LATEST),
        "reader": lambda: next(fresh),
        "iterate reader": lambda: list(fresh),
        "follow": lambda: next(following),
        "batch reader": lambda: next(batches),
        "submit": lambda: producer.submit(b"x"),
        "flush": producer.flush,
        "result": submitted.result,
        "receive": consumer.receive,
        "receive in time": lambda: consumer.receive(timeout=1),
        "iterate consumer": lambda: next(iter(consumer)),
        "ack": lambda: consumer.ack(batch),
        "durable ack": lambda: consumer.ack(batch, durable=True),
        "commit acks": consumer.commit,
        "release": lambda: consumer.release(batch),
        "extend": lambda: consumer.extend(batch, by=1),
        "gaps": consumer.gaps,
        "delivery ack": batch[0].ack,
        "delivery release": batch[0].release,
        "delivery extend": lambda: batch[0].extend(by=1),
        "consumer": lambda: subscription.consumer("d"),
        "subscription info": subscription.info,
        "lag": subscription.lag,
        "transaction append": lambda: tx.append("orders", b"x"),
        "transaction create": lambda: tx.create_stream("new"),
        "transaction ack": lambda: tx.ack(batch),
        "commit": tx.commit,
        "enter": store.__enter__,
        "streams": store.streams,
        "subscriptions": store.subscriptions,
        "create_stream": lambda: store.create_stream("new"),
        "create_stream again": lambda: store.create_stream("orders", exists_ok=True),
        "delete_stream": lambda: store.delete_stream("orders", force=True),
        "create_subscription": lambda: store.create_subscription("new", stream="orders"),
        "delete_subscription": lambda: store.delete_subscription("s", force=True),
        "stats": store.stats,
        "sync": store.sync,
        "close reader": fresh.close,
        "close follower": following.close,
        "close consumer": consumer.close,
        "close producer": producer.close,
        "close": store.close,
        "repr": lambda: repr((store, stream, subscription, consumer, producer, tx)),
    }


def expected(name: str) -> str:
    return "returned" if name.startswith("close") or name == "repr" else "Forked"


def test_every_use_in_a_forked_child_is_refused_and_writes_nothing(store: hs.Store) -> None:
    calls = uses_of(store)
    store.sync()
    before = files_of(store.path)
    found, after = in_child(lambda: (outcomes(calls), files_of(store.path)))
    assert found == {name: expected(name) for name in calls}
    assert after == before
    stream = store.stream("orders")
    stream.append(b"goes on")
    assert payloads(stream)[-2:] in ([b"submitted", b"goes on"], [b"99", b"goes on"])


def test_forked_tells_whose_the_store_is(store: hs.Store) -> None:
    parent = os.getpid()

    def use() -> tuple[str, int]:
        with pytest.raises(hs.Forked) as caught:
            store.create_stream("orders")
        return caught.value.path, caught.value.owner_pid

    assert in_child(use) == (store.path, parent)


def test_a_child_forked_amid_busy_threads_does_not_hang(store: hs.Store) -> None:
    calls = uses_of(store)
    stream = store.stream("orders")
    ends = threading.Event()
    written: list[hs.RecordId] = []

    def write() -> None:
        while not ends.is_set():
            written.append(stream.append(b"busy", durability="os"))

    def look() -> None:
        while not ends.is_set():
            store.stats()
            store.subscription("s").lag()

    threads = [threading.Thread(target=run) for run in (write, write, look, look)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: outcomes(calls)) == {name: expected(name) for name in calls}
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    store.sync()
    assert payloads(stream).count(b"busy") == len(set(written)) == len(written)


def test_a_child_forked_while_a_thread_has_the_catalog_does_not_hang(store: hs.Store) -> None:
    calls = uses_of(store)
    taken, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with store._engine.lock:
            taken.set()
            ends.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        assert in_child(lambda: outcomes(calls)) == {name: expected(name) for name in calls}
    finally:
        ends.set()
        thread.join()


def run_in_process(connection: Any, store: hs.Store | None) -> None:
    tell_where_it_hangs()
    if store is not None:
        connection.send(outcomes({"append": lambda: store.stream("orders").append(b"x")}))


def test_a_multiprocessing_child_is_refused_and_leaves_the_parent_alone(store: hs.Store) -> None:
    stream = store.create_stream("orders")
    stream.append(b"before")
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=run_in_process, args=(there, store))
    process.start()
    assert here.recv() == {"append": "Forked"}
    process.join()
    assert process.exitcode == 0
    stream.append(b"after")
    assert payloads(stream) == [b"before", b"after"]


def test_a_spawned_process_ends_while_the_store_is_open(store: hs.Store) -> None:
    stream = store.create_stream("orders")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=run_in_process, args=(there, None))
    process.start()
    process.join()
    assert process.exitcode == 0
    here.close()
    assert stream.append(b"x").lsn == 1


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=SCRIPT_SECONDS,
    )


CHILD_EXITS = """
import os, sys, hstreamlite as hs
with hs.open(sys.argv[1]) as store:
    stream = store.create_stream("orders")
    with stream.producer() as producer:
        producer.submit(b"before")
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        print("child", os.waitstatus_to_exitcode(status))
    for _ in range(10):
        stream.append(b"after")
"""


def test_a_child_that_exits_through_with_blocks_and_exit_handlers_harms_nothing(
    tmp_path: Path,
) -> None:
    assert run_script(CHILD_EXITS, str(tmp_path / "s")).stdout == "child 0\n"
    with hs.open(tmp_path / "s") as store:
        assert store.recovery.clean
        assert payloads(store.stream("orders")) == [b"before"] + [b"after"] * 10


ORPHAN = """
import os, sys, hstreamlite as hs
store = hs.open(sys.argv[1])
store.create_stream("orders").append(b"kept")
ready, told = os.pipe()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    os.close(told)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), 9)
"""


def test_a_child_that_outlives_its_parent_does_not_keep_the_store(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", ORPHAN, str(tmp_path / "s")],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.wait() == -signal.SIGKILL
        os.kill(child, 0)
        with hs.open(tmp_path / "s") as store:
            assert payloads(store.stream("orders")) == [b"kept"]
            store.stream("orders").append(b"more")
        parent.stdin.close()


def test_a_child_may_open_a_store_of_its_own(store: hs.Store, tmp_path: Path) -> None:
    def use() -> list[object]:
        with hs.open(tmp_path / "own") as own:
            stream = own.create_stream("orders")
            stream.append(b"mine")
            with own.create_subscription("s", stream="orders").consumer("c") as consumer:
                consumer.ack(consumer.receive())
            return payloads(stream)

    stream = store.create_stream("orders")
    assert in_child(use) == [b"mine"]
    stream.append(b"x")
    with hs.open(tmp_path / "own") as own:
        assert own.recovery.clean


def test_a_forked_child_of_a_forked_child_is_refused_too(store: hs.Store) -> None:
    calls = uses_of(store)

    def again() -> dict[str, str]:
        found = in_child(lambda: outcomes(calls))
        assert isinstance(found, dict)
        return found

    assert in_child(again) == {name: expected(name) for name in calls}
