"""A forked child may not use the connection of its parent, nor make one: each ends with Forked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conformance.faces import served
from tests.test_fork import run_script

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]

USES = """
import asyncio, sys, hstreamlite as hs
from tests.test_fork import expected, in_child, nouns_of, outcomes
address = sys.argv[1]
def told(run):
    for _ in range(20):
        try:
            return in_child(run)
        except AssertionError as ended:  # gRPC may break in a child that goes on, at any moment
            print(ended, file=sys.stderr)
    sys.exit('every child broke')
with hs.connect(address) as store:
    subscription = store.create_stream("orders") and store.create_subscription("s", stream="orders")
    calls = nouns_of(store)
    def use():
        found = outcomes(calls)
        found["connect"] = outcomes({"connect": lambda: hs.connect(address, timeout=5)})["connect"]
        async def connect():
            async with hs.aio.connect(address, timeout=5):
                pass
        told = outcomes({"aio connect": lambda: asyncio.run(connect())})
        return found | told
    found = told(use)
    wrong = {name: was for name, was in found.items() if was != expected(name)}
    assert not wrong, wrong
    stream = store.stream("orders")
    stream.append(b"goes on")
    payloads = [record.payload for record in stream.read()]
    assert payloads[-2:] in ([b"submitted", b"goes on"], [b"99", b"goes on"]), payloads[-3:]
    assert [info.name for info in store.streams()] == ["orders"]
    assert store.subscription("s").info().consumers == ("c",)
found = told(use)
assert found.pop("connect") == found.pop("aio connect") == "Forked"
print(len(calls))
"""

EXITS = """
import os, sys, hstreamlite as hs
with hs.connect(sys.argv[1]) as store:
    stream = store.create_stream("orders")
    consumer = store.create_subscription("s", stream="orders").consumer("c")
    with stream.producer(batch_age=3600) as producer:
        producer.submit(b"before")
        pid = os.fork()
        if pid == 0:
            del consumer
            sys.exit(0)
        os.waitpid(pid, 0)  # however it ended: gRPC may break in a child that goes on
    stream.append(b"after")
    assert store.subscription("s").info().consumers == ("c",)
    print(*[record.payload.decode() for record in stream.read()])
"""


async def run(script: str, path: Path) -> str:
    async with served(path):
        return (await asyncio.to_thread(run_script, script, f"unix:{path}")).stdout


async def test_every_use_in_a_forked_child_is_refused(tmp_path: Path) -> None:
    assert int(await run(USES, tmp_path / "s")) > 50


async def test_a_child_that_exits_through_with_blocks_and_exit_handlers_leaves_its_parent_alone(
    tmp_path: Path,
) -> None:
    assert await run(EXITS, tmp_path / "s") == "before after\n"
