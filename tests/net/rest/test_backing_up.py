"""Backups that are asked for over HTTP. What there is to say of backups, tests/net says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.access.token import hash_of, new_token
from tests.net.rest.conftest import serving

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
PAYLOADS = [b"%d" % i * 20 for i in range(500)]
ASKED = "/v1/backups/monday"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The server's directory of backups."""
    path = tmp_path / "backups"
    path.mkdir()
    return path


def names(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()]


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - what it looks at rings for nobody
        await asyncio.sleep(0)


async def test_the_last_line_says_where_the_copy_is(tmp_path: Path, place: Path) -> None:
    async with serving(tmp_path, server={"backup_dir": str(place)}) as (server, client):
        stream = await server.node.store.create_stream("orders")
        await stream.append_many(PAYLOADS)
        answer = await client.post(ASKED)
    assert answer.status_code == 200
    *steps, last = [json.loads(line) for line in answer.text.splitlines()]
    assert last["path"] == str(place / "monday")
    assert int(last["done"]) == int(last["total"]) > 0
    assert not any(step.get("path") for step in steps)
    with hs.open(place / "monday", read_only=True) as copy:
        assert [record.payload for record in copy.stream("orders").read()] == PAYLOADS


async def test_a_name_that_is_taken_or_leads_elsewhere_is_refused(
    tmp_path: Path, place: Path
) -> None:
    (place / "monday").mkdir()
    async with serving(tmp_path, server={"backup_dir": str(place)}) as (_, client):
        taken = await client.post(ASKED)
        elsewhere = await client.post("/v1/backups/..%2Fevil")
    assert "choose another name" in taken.text
    assert elsewhere.status_code == 400
    assert names(place) == ["monday"]


async def test_without_a_place_there_are_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        answer = await client.post(ASKED)
    assert answer.status_code == 409
    assert "backup_dir" in answer.json()["message"]


async def test_it_takes_the_right_to_administer(tmp_path: Path, place: Path) -> None:
    token = new_token()[0]
    settings = {
        "backup_dir": str(place),
        "tokens": (TokenConfig(role="reader", hash=hash_of(token)),),
        "grants": (GrantConfig(role="reader", actions=("read", "monitor"), streams=("",)),),
    }
    async with serving(tmp_path, server=settings) as (_, client):
        answer = await client.post(ASKED, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert names(place) == []


async def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path, place: Path) -> None:
    free = threading.Event()
    async with serving(tmp_path, server={"backup_dir": str(place)}) as (server, client):
        backups = server.node.backups
        await (await server.node.store.create_stream("orders")).append_many(PAYLOADS)
        with ThreadPoolExecutor(1) as threads:
            asyncio.get_running_loop().set_default_executor(threads)
            threads.submit(free.wait)
            try:
                asking = asyncio.create_task(client.post(ASKED))
                await until(lambda: backups._making or asking.done())
                making = backups._making
                assert making is not None
                asking.cancel()
                await until(lambda: making.given_up)
            finally:
                free.set()
            await until(lambda: not backups._making)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
    assert names(place) == []
