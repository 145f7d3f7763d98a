"""What asyncio's face leaves to threads is done, and in the order of the calls."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite.aio.bell import in_thread

pytestmark = pytest.mark.asyncio


async def test_what_waits_for_a_thread_is_done_though_its_caller_is_cancelled() -> None:
    free, done = threading.Event(), threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    busy = asyncio.ensure_future(in_thread(free.wait))
    waiting = asyncio.ensure_future(in_thread(done.set))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    free.set()
    await busy
    await in_thread(done.wait)


async def test_appends_that_find_no_room_are_stored_in_the_order_of_their_calls(
    tmp_path: Path,
) -> None:
    async with aio.open(
        tmp_path / "store", config=hs.StoreConfig(chunk_bytes=64 << 10, stage_bytes=1 << 20)
    ) as store:
        stream = await store.create_stream("s")
        large, small = bytes(200_000), b"small"
        calls = []
        for _ in range(30):
            calls += [
                stream.append(large),
                stream.append_many([small, large]),
                stream.append(small),
            ]
        found = await asyncio.gather(*calls)
        places = [ids if isinstance(ids, hs.RecordId) else ids[0] for ids in found]
        assert places == sorted(places)
