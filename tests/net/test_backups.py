"""Backups that a server makes of its store: whole or not there, and only where its operator allows.

Method: real servers and clients. Where a backup has to be caught half-way, the only thread that it
could look at a disk in is kept busy until its end has been asked for; it then begins, and must
clean up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite._native.files import real_env
from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.access.token import hash_of, new_token
from hstreamlite.net.server import Server
from hstreamlite.tools.check import check
from tests.net.wire import config

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
PAYLOADS = [b"%d" % i * 20 for i in range(500)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The server's directory of backups."""
    path = tmp_path / "backups"
    path.mkdir()
    return path


@pytest_asyncio.fixture
async def server(tmp_path: Path, place: Path) -> AsyncIterator[Server]:
    async with Server(config(tmp_path, backup_dir=str(place))) as server:
        yield server


@pytest_asyncio.fixture
async def store(server: Server) -> AsyncIterator[aio.Store]:
    async with connected(server) as store:
        await (await store.create_stream("orders")).append_many(PAYLOADS)
        yield store


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def around(place: Path) -> list[Path]:
    """Return everything that is there, and beside it."""
    return sorted(place.parent.rglob("*"))


def connected(server: Server) -> aio.Store:
    return aio.connect(f"hstream://{server.address}", timeout=60)  # type: ignore[return-value]


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - what it looks at rings for nobody
        await asyncio.sleep(0)


def is_waiting(server: Server) -> bool:
    return bool(server.node.backups._making) and not server.node.limits._writing


@asynccontextmanager
async def held_up(server: Server, store: aio.Store) -> AsyncIterator[asyncio.Task[str]]:
    """Give a call that waits for a backup, whose thread is free at the end of the block."""
    free = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(free.wait)
        try:
            task = asyncio.create_task(store.backup("monday"))
            await until(lambda: task.done() or is_waiting(server))
            assert not task.done(), "the server's loop itself looked at the disk"
            yield task
        finally:
            free.set()
        await until(lambda: not server.node.backups._making)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))


async def test_a_server_on_the_copy_has_what_was_acknowledged_before(
    server: Server, store: aio.Store, place: Path, tmp_path: Path
) -> None:
    orders, ending = store.stream("orders"), asyncio.Event()
    await store.create_subscription("billing", stream="orders", ack_timeout=600)
    async with store.subscription("billing").consumer("ada") as consumer:
        await consumer.ack(await consumer.receive(300))
        await consumer.commit()
    acked = len(PAYLOADS)

    async def write() -> None:
        nonlocal acked
        while not ending.is_set():
            await orders.append_many([b"%d" % i * 20 for i in range(acked, acked + 50)])
            acked += 50

    writer = asyncio.create_task(write())
    told: list[tuple[int, int]] = []
    for name in ("monday", "tuesday"):
        before = acked
        path = await store.backup(name, progress=lambda *at: told.append(at))
        assert path == str(place / name)
        assert told[-1][0] == told[-1][1] > 0
        assert check(real_env(), path).sound
    ending.set()
    await writer
    assert names(place) == ["monday", "tuesday"]
    async with Server(config(tmp_path, store=path)) as restored, connected(restored) as copy:
        found = [record.payload async for record in copy.stream("orders").read()]
        assert len(found) >= before
        assert found == [b"%d" % i * 20 for i in range(len(found))]
        assert (await copy.subscription("billing").lag()).backlog == len(found) - 300
        await copy.stream("orders").append(b"goes on")


async def test_the_blocking_face_makes_them_too(server: Server, store: aio.Store) -> None:
    def work() -> str:
        told = []
        with hs.connect(f"hstream://{server.address}", timeout=60) as blocking:
            path = blocking.backup("monday", progress=lambda *at: told.append(at))
        assert told[-1][0] == told[-1][1] > 0
        return path

    path = await asyncio.to_thread(work)
    with hs.open(path, read_only=True) as copy:
        assert [record.payload for record in copy.stream("orders").read()] == PAYLOADS


NO_NAMES = (
    *("", ".", "..", "../evil", "a/b", "/tmp/evil", ".hidden", "a b", "a\n", "x.partial"),
    "x" * 201,
)


async def test_a_name_leads_nowhere_else(store: aio.Store, place: Path) -> None:
    before = around(place)
    for name in NO_NAMES:
        with pytest.raises(ValueError, match="name of a backup"):
            await store.backup(name)
    assert around(place) == before


async def test_the_loop_waits_for_no_disk(server: Server, store: aio.Store, place: Path) -> None:
    (place / "monday").mkdir()
    async with held_up(server, store) as task:
        assert not task.done()
    with pytest.raises(hs.BackupRefused, match="choose another name"):
        await task


def obstacles(place: Path) -> list[str]:
    """Put things in the way of backups, and return of which."""
    outside = place.parent / "outside"
    outside.mkdir()
    (place / "directory").mkdir()
    (place / "file").write_text("x")
    (place / "link").symlink_to(outside)
    (place / "loose").symlink_to(outside / "new")
    (place / "unfinished.partial").mkdir()
    return ["directory", "file", "link", "loose", "unfinished"]


async def test_what_is_there_stays(store: aio.Store, place: Path) -> None:
    found = obstacles(place)
    before = around(place)
    for name in found:
        with pytest.raises(hs.BackupRefused, match="choose another name") as refused:
            await store.backup(name)
        assert (refused.value.name, refused.value.retryable) == (name, False)
    assert around(place) == before


async def test_a_server_without_a_place_refuses(tmp_path: Path) -> None:
    async with Server(config(tmp_path)) as server, connected(server) as store:
        with pytest.raises(hs.BackupRefused, match="its setting backup_dir says no place"):
            await store.backup("monday")


async def test_a_place_that_is_gone_is_told(store: aio.Store, place: Path) -> None:
    await asyncio.to_thread(place.rmdir)
    with pytest.raises(hs.StorageUnavailable, match="monday"):
        await store.backup("monday")


async def test_a_place_in_the_store_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lies inside the store"):
        await Server(config(tmp_path, backup_dir=str(tmp_path / "store"))).start()


async def test_it_takes_the_right_to_administer(tmp_path: Path, place: Path) -> None:
    tokens = {name: new_token()[0] for name in ("boss", "reader")}
    settings = config(
        tmp_path,
        backup_dir=str(place),
        tokens=tuple(TokenConfig(role=name, hash=hash_of(t)) for name, t in tokens.items()),
        grants=(
            GrantConfig(role="boss", actions=("admin",)),
            GrantConfig(role="reader", actions=("read", "monitor"), streams=("",)),
        ),
    )
    async with Server(settings) as server:
        url = f"hstream://{server.address}"
        async with aio.connect(url, timeout=60, token=tokens["reader"]) as store:
            with pytest.raises(hs.PermissionDenied, match="'admin'"):
                await store.backup("monday")
        assert names(place) == []
        async with aio.connect(url, timeout=60, token=tokens["boss"]) as store:
            assert await store.backup("monday") == str(place / "monday")


def damage(path: Path) -> None:
    """Change the first record."""
    data = bytearray(path.read_bytes())
    data[data.index(PAYLOADS[1])] ^= 1
    path.write_bytes(data)


async def test_a_damaged_store_is_not_backed_up(
    store: aio.Store, place: Path, tmp_path: Path
) -> None:
    damage(tmp_path / "store/segments/0000000000000001.seg")
    with pytest.raises(hs.CorruptionError, match="orders") as damaged:
        await store.backup("monday")
    assert str(tmp_path / "store") in damaged.value.path
    assert names(place) == []


async def test_one_at_a_time(server: Server, store: aio.Store, place: Path) -> None:
    async with held_up(server, store) as first:
        with pytest.raises(hs.BackupRefused, match="'monday' is being made") as refused:
            await store.backup("tuesday")
        assert refused.value.retryable
    assert await first == str(place / "monday")
    assert await store.backup("tuesday") == str(place / "tuesday")


async def test_a_cancelled_one_leaves_nothing(
    server: Server, store: aio.Store, place: Path
) -> None:
    async with held_up(server, store) as task:
        making = server.node.backups._making
        assert making is not None
        task.cancel()
        await until(lambda: making.given_up)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(place) == []
    assert await store.backup("monday") == str(place / "monday")


async def test_a_client_that_goes_away_leaves_nothing(
    server: Server, store: aio.Store, place: Path
) -> None:
    async with connected(server) as other:
        async with held_up(server, other) as task:
            making = server.node.backups._making
            assert making is not None
            await other.close()
            await until(lambda: making.given_up)
        with pytest.raises(hs.StoreClosed):
            await task
    assert names(place) == []


async def test_a_server_that_stops_leaves_nothing(tmp_path: Path, place: Path) -> None:
    server = Server(config(tmp_path, backup_dir=str(place)))
    await server.start()
    async with connected(server) as store:
        await store.create_stream("orders")
        # Of what it tries again once the server is gone; to connect takes a busy machine longer.
        store._link.timeout = 0.5  # type: ignore[attr-defined]
        async with held_up(server, store) as task:
            making = server.node.backups._making
            assert making is not None
            stopping = asyncio.create_task(server.stop())
            await until(lambda: making.given_up)
        await stopping
        with pytest.raises(hs.RemoteError):
            await task
    assert names(place) == []
    with hs.open(tmp_path / "store", create=False) as again:
        assert [info.name for info in again.streams()] == ["orders"]
