"""What `hstreamlite.connect` needs, refuses and shares."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.failures import error_of, failure_of
from hstreamlite.net.server import Server
from hstreamlite.remote import admin
from hstreamlite.remote.address import parse
from hstreamlite.remote.security import Security
from hstreamlite.remote.thread import LoopThread, threads
from tests.conformance.faces import served, server_loop
from tests.logs import logged
from tests.test_errors import EXAMPLES

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("hstream://example.org", "dns:///example.org:6570"),
        ("hstream://127.0.0.1:7000/", "dns:///127.0.0.1:7000"),
        ("hstream://[::1]:7000", "dns:///[::1]:7000"),
        ("unix:/run/store.sock", "unix:/run/store.sock"),
        ("unix:/run/a b%20?#.sock", "unix:/run/a%20b%2520%3F%23.sock"),
    ],
)
def test_addresses(address: str, target: str) -> None:
    with parse(address).dialled() as dialled:
        assert dialled == target


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Serve the store of a directory."""
    path.parent.mkdir(exist_ok=True)
    server = Server(ServerConfig(store=str(path), port=0, http=False))
    server_loop().run(server.start)
    try:
        yield
    finally:
        server_loop().run(server.stop)


@pytest.mark.parametrize("name", ["plain", "a b%20?#ü", "x" * 200, "y" * 60 + "/" + "%z" * 60])
def test_any_directory_of_a_store_can_be_dialled(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    before = handles()
    with running(path), hs.connect(f"unix:{path}") as store:
        store.create_stream("orders").append(b"x")
        with hs.connect(f"unix:{path}/server.sock") as other:
            assert [info.name for info in other.streams()] == ["orders"]
        assert admin.run(parse(f"unix:{path}"), Security(), "status")["type"] == "table"
    assert handles() <= before  # what earlier tests left may be closed meanwhile


def test_a_store_can_be_opened_after_the_end_of_the_last_one_was_interrupted() -> None:
    begun, may_end = threading.Event(), threading.Event()

    async def slow() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.to_thread(may_end.wait)

    thread = threads.take()
    task = asyncio.run_coroutine_threadsafe(slow(), thread.loop)
    begun.wait()
    join, thread._thread = thread._thread, Interrupted()
    with pytest.raises(KeyboardInterrupt):
        threads.give_back(thread)
    thread._thread = join
    may_end.set()
    other = threads.take()
    try:
        assert other.run(asyncio.sleep, 0, "answer") == "answer"
        assert task.done()
    finally:
        threads.give_back(other)


class Interrupted:
    """A thread whose end nobody sees, for Ctrl-C comes first."""

    def join(self) -> None:
        raise KeyboardInterrupt


def handles() -> int:
    """Return how many directories this process has open."""
    return sum(Path(f"/proc/self/fd/{fd}").is_dir() for fd in os.listdir("/proc/self/fd"))


def test_a_server_that_comes_later_is_found_in_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "later"
    answers: list[str] = []

    def connect() -> None:
        with hs.connect(f"unix:{path}") as store:
            answers.append(store.path)

    thread = threading.Thread(target=connect)
    thread.start()
    with running(path):
        thread.join()
    assert answers == [str(path)]


def test_a_socket_whose_name_is_too_long_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give it a shorter name"):
        hs.connect(f"unix:{tmp_path}/{'x' * 120}")


@pytest.mark.parametrize(
    "address",
    ["", "example.org", "http://a", "hstream://", "hstream://a:x", "unix:", "hstream://a/b"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address must be"):
        hs.connect(address)


def failure_of_connect(address: str, seconds: float, **options: Any) -> hs.ConnectionFailed:
    """Return why one cannot connect, with more time where that was too short to find it out."""
    with pytest.raises(hs.ConnectionFailed) as caught:
        hs.connect(address, timeout=seconds, **options)
    if caught.value.why in ("nothing was tried", "no answer"):
        return failure_of_connect(address, 2 * seconds, **options)
    return caught.value


def test_nobody_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    error = failure_of_connect(f"unix:{tmp_path}", 0.1)
    assert "python -m hstreamlite server --store" in str(error)
    assert error.retryable
    assert error.address == f"unix:{tmp_path}"
    assert error.why == f"{tmp_path}/server.sock is not there"


def test_without_its_packages_it_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "import hstreamlite as hs\nhs.connect('hstream://a')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'hstreamlite[client]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_cross_whole(error: hs.HStreamError) -> None:
    if isinstance(error, hs.StoreClosed | hs.Forked):
        assert isinstance(error_of(failure_of(error), "here"), hs.Unavailable)
        return
    told = error_of(failure_of(error), "here")
    assert type(told) is type(error)
    assert isinstance(told, hs.HStreamError)
    assert (told.retryable, told.outcome) == (error.retryable, error.outcome)
    if isinstance(told, hs.CorruptionError):
        assert isinstance(error, hs.CorruptionError)
        assert told.lost == error.lost
    if isinstance(error, hs.RecordTooLarge):
        assert "--store-config-batch-bytes-max" in str(told)
    elif not isinstance(error, hs.Unavailable):
        assert str(told) == str(error)


def test_a_failure_of_another_version_is_a_remote_error() -> None:
    failure = (
        '{"type": "Later", "message": "m.", "facts": {}, "retryable": true, "outcome": "none"}'
    )
    told = error_of(failure, "here")
    assert type(told) is hs.RemoteError
    assert told.retryable


def work(address: str, name: str) -> list[bytes]:
    """Take what there is, in a process of its own."""
    with hs.connect(address) as store, store.subscription("billing").consumer(name) as consumer:
        seen = []
        while store.subscription("billing").lag().records:
            batch = consumer.receive(10, timeout=0.5)
            seen += [bytes(delivery.payload) for delivery in batch]
            consumer.ack(batch)
        return seen


@pytest.mark.asyncio
async def test_processes_share_a_subscription(tmp_path: Path) -> None:
    async with served(tmp_path / "s"):
        address = f"unix:{tmp_path / 's'}"
        async with hs.aio.connect(address) as store:
            await store.create_stream("orders")
            await store.stream("orders").append_many([b"%d" % n for n in range(200)])
            subscription = await store.create_subscription("billing", stream="orders")
            with multiprocessing.get_context("spawn").Pool(3) as pool:
                jobs = [pool.apply_async(work, (address, f"w{n}")) for n in range(3)]
                while not all(job.ready() for job in jobs):
                    await store.stats()
                seen = [payload for job in jobs for payload in job.get()]
            assert sorted(seen) == sorted(b"%d" % n for n in range(200))
            assert await subscription.lag() == hs.Lag(0, 0)


@pytest.mark.asyncio
async def test_what_a_reader_waits_for_when_its_store_is_closed_is_no_news_for_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path / "s"):
        async with hs.aio.connect(f"unix:{tmp_path / 's'}") as store:
            reader: Any = (await store.create_stream("orders")).read(follow=True)
            waiting = asyncio.ensure_future(anext(reader))
            while reader._reading is None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            reading = reader._reading
        with pytest.raises(hs.StoreClosed):
            await waiting
        await asyncio.wait([reading])
        del reader, reading, waiting
        gc.collect()
    assert logged(caplog) == []


@pytest.mark.asyncio
async def test_the_collector_may_end_a_loop_over_deliveries_in_the_thread_of_the_connection(
    tmp_path: Path,
) -> None:
    """It must not wait there for what only that thread can do."""
    async with served(tmp_path / "s"):
        with await asyncio.to_thread(hs.connect, f"unix:{tmp_path / 's'}") as store:
            stream = store.create_stream("orders")
            stream.append_many([b"x"] * 5)
            subscription = store.create_subscription("billing", stream="orders")
            loop: list[object] = [iter(subscription.consumer("w"))]
            loop.append(loop)
            next(loop[0])  # type: ignore[call-overload]
            del loop
            done = threading.Event()
            store._thread.loop.call_soon_threadsafe(lambda: (gc.collect(), done.set()))
            assert await asyncio.to_thread(done.wait, 20)
            with subscription.consumer("w") as consumer:
                found = consumer.receive(5)
                assert sorted(d.attempt for d in found) == [1, 1, 1, 1, 2]


def test_threads_that_share_a_producer_ask_nobody_to_take_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, records, together = 4, 100, 40
    with running(tmp_path / "store"), hs.connect(f"unix:{tmp_path / 'store'}") as store:
        stream = store.create_stream("s")
        with stream.producer(batch_records=together, batch_age=3600) as producer:
            producer.submit(b"first").result()
            asked = []
            call = LoopThread.run
            monkeypatch.setattr(LoopThread, "run", lambda *a, **o: asked.append(a) or call(*a, **o))
            with ThreadPoolExecutor(threads) as pool:
                shares = list(
                    pool.map(
                        lambda name: [
                            producer.submit(b"%d-%d" % (name, at)) for at in range(records)
                        ],
                        range(threads),
                    )
                )
            assert asked == []
            producer.flush()
            ids = [[submitted.result() for submitted in share] for share in shares]
        assert [sorted(share) for share in ids] == ids
        found = {record.id: record.payload for record in stream.read()}
        assert len(found) == 1 + threads * records
        for name, share in enumerate(ids):
            assert [found[id_] for id_ in share] == [b"%d-%d" % (name, at) for at in range(records)]
