"""A thousand idle connections, and hundreds that neither read nor write on, cost little."""

import re
from pathlib import Path

import httpx
import pytest

from benchmarks.crowd import BATCH, SLOW, Crowd, Healthy, Process, gather, serving

pytestmark = pytest.mark.unsanitized("it is about memory")

ROOM = 64 << 20
BUDGET = (16 + 16) << 20
"""Of the store: what is staged, and indexes that were read."""


async def calls(server: Process) -> int:
    async with httpx.AsyncClient(timeout=30) as client:
        page = (await client.get(f"http://{server.http}/metrics")).text
    [found] = re.findall(r"^hstreamlite_server_calls (\d+)", page, re.MULTILINE)
    return int(found)


@pytest.mark.asyncio
async def test_a_crowd_that_holds_connections_holds_little_memory_and_nobody_up(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "store") as server:
        healthy, crowd = Healthy(server.port), Crowd(server.port)
        try:
            await healthy.fill(50, BATCH)
            before = server.memory()
            await gather(crowd)
            while await calls(server) < 2 * SLOW:
                pass
            for _ in range(20):
                await healthy.append(1000)
                await crowd.trickle()
            assert server.memory() - before < BUDGET + ROOM
        finally:
            crowd.close()
            await healthy.close()
