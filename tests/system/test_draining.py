"""A process that is told to end while handlers run: these end first, and their acks are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hstreamlite as hs

PACKAGE = Path(hs.__file__).parent.parent
HANGS_AFTER_SECONDS = 60
RECORDS = 500
QUICK = 200
WORKERS = 4

BEGIN = f"""
import asyncio, os, signal, sys, threading, hstreamlite as hs
hs.exit_on_sigterm()
signal.signal(signal.SIGINT, signal.default_int_handler)
def say(what, delivery):
    os.write(1, b"%s %s\\n" % (what, delivery.payload))
def handle(delivery):
    say(b"began", delivery)
    if int(delivery.payload) >= {QUICK}:
        os.read(0, 1)
    say(b"ended", delivery)
"""

RUNS = {
    "main thread": f"""
with hs.open(sys.argv[1]) as store, store.subscription("s").consumer("c") as consumer:
    consumer.run(handle, workers={WORKERS})
""",
    "another thread": f"""
with hs.open(sys.argv[1]) as store:
    consumer = store.subscription("s").consumer("c")
    thread = threading.Thread(target=consumer.run, args=[handle], kwargs={{"workers": {WORKERS}}})
    thread.start()
    thread.join()
""",
    "store left open": f"""
store = hs.open(sys.argv[1])
store.subscription("s").consumer("c").run(handle, workers={WORKERS})
""",
    "coroutines": f"""
async def coroutine(delivery):
    await asyncio.to_thread(handle, delivery)
async def main():
    hs.aio.exit_on_sigterm()
    async with hs.aio.open(sys.argv[1]) as store:
        async with store.subscription("s").consumer("c") as consumer:
            await consumer.run(coroutine, concurrency={WORKERS})
asyncio.run(main())
""",
    "event loop": f"""
async def main():
    async with hs.aio.open(sys.argv[1]) as store:
        async with store.subscription("s").consumer("c") as consumer:
            await consumer.run(handle, concurrency={WORKERS})
asyncio.run(main())
""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("run", RUNS)
def test_handlers_are_finished_and_acked_before_the_process_ends(
    tmp_path: Path, run: str, number: signal.Signals, say: Callable[[str], None]
) -> None:
    path = tmp_path / "s"
    with hs.open(path) as store:
        store.create_stream("jobs").append_many([b"%d" % n for n in range(RECORDS)])
        store.create_subscription("s", stream="jobs", ack_timeout=3600)
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + RUNS[run], str(path)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        began: set[int] = set()
        ended: set[int] = set()
        while len(began - ended) < WORKERS or len(ended) < QUICK:
            what, payload = process.stdout.readline().split()
            (began if what == b"began" else ended).add(int(payload))
        process.send_signal(number)
        rest, errors = process.communicate(b"go" * WORKERS, timeout=HANGS_AFTER_SECONDS)
    for line in rest.splitlines():
        what, payload = line.split()
        (began if what == b"began" else ended).add(int(payload))
    if number == signal.SIGTERM:
        assert (process.returncode, errors) == (128 + signal.SIGTERM, b"")
    else:
        assert errors.endswith(b"KeyboardInterrupt\n")
    with hs.open(path) as store, store.subscription("s").consumer("c") as consumer:
        assert store.recovery.clean
        left = {int(d.payload) for d in consumer.receive(RECORDS, timeout=0)}
    assert began == ended, "handlers were left in the middle"
    assert left == set(range(RECORDS)) - ended, "acks were lost, or came without their handler"
    say(f"{run}, {number.name}: {len(ended)} handled and acked, {len(left)} left")
