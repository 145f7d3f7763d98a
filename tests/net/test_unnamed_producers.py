"""Unnamed producers: each is known to the store under a name, and not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.net.server import Server
from hstreamlite.net.unnamed import (
    KEEP_MAX,
    KEEP_SECONDS,
    LEAST_SECONDS,
    RETURN_SECONDS,
    Idle,
    is_unnamed,
    name_of,
)
from tests.conformance.faces import served

remote = pytest.mark.unsanitized("gRPC's own core is no build of ours")


def test_they_are_kept_for_longer_than_their_clients_come_back() -> None:
    assert RETURN_SECONDS < LEAST_SECONDS < KEEP_SECONDS


def test_what_was_idle_for_long_is_over() -> None:
    idle = Idle([(1, "a")], 0.0)
    idle.begin((1, "b"))
    idle.end((1, "b"), 10.0)
    assert list(idle.over(KEEP_SECONDS - 1)) == []
    assert list(idle.over(KEEP_SECONDS)) == [(1, "a")]
    assert list(idle.over(KEEP_SECONDS + 10)) == [(1, "b")]
    assert len(idle) == 0


def test_one_that_came_back_is_not_idle_while_any_call_of_it_goes_on() -> None:
    idle = Idle([(1, "a")], 0.0)
    idle.begin((1, "a"))
    idle.begin((1, "a"))
    idle.end((1, "a"), 1.0)
    assert list(idle.over(10 * KEEP_SECONDS)) == []
    idle.end((1, "a"), 10 * KEEP_SECONDS)
    assert list(idle.over(11 * KEEP_SECONDS)) == [(1, "a")]


def test_of_many_the_oldest_are_over_sooner_and_none_at_once() -> None:
    idle = Idle([], 0.0)
    for n in range(KEEP_MAX + 5):
        idle.begin((1, f"{n}"))
        idle.end((1, f"{n}"), float(n))
    assert list(idle.over(LEAST_SECONDS - 1)) == []
    assert list(idle.over(LEAST_SECONDS + KEEP_MAX)) == [(1, f"{n}") for n in range(5)]
    assert len(idle) == KEEP_MAX


@pytest.mark.parametrize("name", ["~", "~a", "~" + "g" * 16, "~" + "0" * 17, "0" * 16])
def test_names_that_users_give_are_not_taken_for_made_up(name: str) -> None:
    assert is_unnamed((1, name_of(bytes(8))))
    assert not is_unnamed((1, name))


async def dies(address: str, name: str | None) -> None:
    """Store something and go without a word."""
    store = await hs.aio.connect(address)
    await store.create_stream("orders", exists_ok=True)
    producer = await store.stream("orders").producer(name=name)
    await (await producer.submit(b"x")).result()
    connection = store._link.current
    assert producer._life is not None
    assert connection is not None
    producer._life.cancel()
    await connection.close()


def names(server: Server) -> list[str]:
    return sorted(name for _, name in server.node.store._engine.producers.names())


@remote
@pytest.mark.asyncio
async def test_those_of_dead_clients_are_forgotten_and_stay_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix:{tmp_path / 's'}"
    async with served(tmp_path / "s") as server:
        await dies(address, None)
        await dies(address, "kept")
        (unnamed, named) = sorted(names(server), reverse=True)
        assert (is_unnamed((1, unnamed)), named) == (True, "kept")
    with monkeypatch.context() as patched:
        patched.setattr("hstreamlite.net.unnamed.KEEP_SECONDS", 0.0)
        async with served(tmp_path / "s") as server, hs.aio.connect(address) as store:
            async with store.stream("orders").producer() as producer:
                await producer.submit(b"y")
            while names(server) != ["kept"]:
                await store.stats()
    async with served(tmp_path / "s") as server:
        assert names(server) == ["kept"]
