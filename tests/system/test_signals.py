"""Ctrl-C, SIGTERM and the end of the program close a store, whatever it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs

PACKAGE = Path(hs.__file__).parent.parent
HANGS_AFTER_SECONDS = 60

WAITS = {
    "receive": "store.subscription('s').consumer('c').receive()",
    "iterate consumer": "list(store.subscription('s').consumer('c'))",
    "iterate in with": "with store.subscription('s').consumer('c') as c: list(c)",
    "run": "store.subscription('s').consumer('c').run(print)",
    "run in with": "with store.subscription('s').consumer('c') as c: c.run(print, workers=4)",
    "follow": "list(stream.read(start=hs.LATEST, follow=True))",
    "follow batches": "list(stream.read_batches(start=hs.LATEST, follow=True))",
    "append": "while True: stream.append(b'x')",
    "append many": "while True: stream.append_many([b'x'] * 1000)",
    "append os": "while True: stream.append(b'x', durability='os')",
    "submit": """
    with stream.producer(buffer_bytes=1000) as producer:
        while True: producer.submit(b'x' * 100)
    """,
    "transaction": """
    while True:
        with store.transaction() as tx: tx.append('orders', b'x')
    """,
}

SCRIPT = """
import signal, sys, hstreamlite as hs
signal.signal(signal.SIGINT, signal.default_int_handler)
{prepare}
with hs.open(sys.argv[1]) as store:
    stream = store.create_stream("orders")
    store.create_subscription("s", stream="orders", start=hs.LATEST)
    stream.append(b"first")
    with store.subscription("s").consumer("warm") as c: c.ack(c.receive())
    print("ready", flush=True)
    {wait}
"""


def start(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def signalled(script: str, path: Path, number: int) -> tuple[int, str]:
    """Start, signal once it says ready, and return its exit status and standard error."""
    with start(script, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=HANGS_AFTER_SECONDS)
        return process.returncode, errors


def check_closed(path: Path) -> None:
    with hs.open(path) as store:
        assert store.recovery.clean
        assert next(iter(store.stream("orders").read())).payload == b"first"


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_wait_and_closes_the_store(tmp_path: Path, wait: str) -> None:
    script = SCRIPT.format(prepare="", wait=WAITS[wait])
    status, errors = signalled(script, tmp_path / "s", signal.SIGINT)
    assert status in (-signal.SIGINT, 1), errors
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    check_closed(tmp_path / "s")


@pytest.mark.parametrize("wait", WAITS)
def test_sigterm_ends_a_wait_and_closes_the_store(tmp_path: Path, wait: str) -> None:
    script = SCRIPT.format(prepare="hs.exit_on_sigterm()", wait=WAITS[wait])
    status, errors = signalled(script, tmp_path / "s", signal.SIGTERM)
    assert (status, errors) == (128 + signal.SIGTERM, "")
    check_closed(tmp_path / "s")


IN_DESTRUCTOR = """
import os, signal, sys, hstreamlite as hs

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        os.getpid()

class Faulty:
    def __del__(self):
        raise ValueError("said as ever")

hs.exit_on_sigterm()
hs.exit_on_sigterm()
Faulty()
with hs.open(sys.argv[1]) as store:
    stream = store.create_stream("orders")
    stream.append(b"first")
    with store.create_subscription("s", stream="orders", start=hs.LATEST).consumer("c") as c:
        Last()
        c.receive()
"""


def test_a_sigterm_that_strikes_in_a_destructor_ends_the_process(tmp_path: Path) -> None:
    with start(IN_DESTRUCTOR, tmp_path / "s") as process:
        _, errors = process.communicate(timeout=HANGS_AFTER_SECONDS)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "ValueError: said as ever"
    assert errors.count("Exception ignored") == 1
    check_closed(tmp_path / "s")


def test_a_second_sigterm_does_not_interrupt_the_closing(tmp_path: Path) -> None:
    script = """
import os, signal, sys, hstreamlite as hs
hs.exit_on_sigterm()
with hs.open(sys.argv[1]) as store:
    store.create_stream("orders").append(b"first")
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("closing", flush=True)
"""
    with start(script, tmp_path / "s") as process:
        said, errors = process.communicate(timeout=HANGS_AFTER_SECONDS)
    assert (process.returncode, said, errors) == (143, "closing\n", "")
    check_closed(tmp_path / "s")


LEFT_OPEN = """
import sys, hstreamlite as hs
store = hs.open(sys.argv[1], durability="memory")
stream = store.create_stream("orders")
stream.append(b"first")
producer = stream.producer(batch_age=3600)
producer.submit(b"second")
consumer = store.create_subscription("s", stream="orders").consumer("c")
consumer.ack(consumer.receive(1))
{end}
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("del store", 0),
        ("del store, stream, producer, consumer; import gc; gc.collect()", 0),
        ("sys.exit(3)", 3),
        ("raise LookupError", 1),
    ],
)
def test_a_store_left_open_is_closed_at_the_end_of_the_program(
    tmp_path: Path, end: str, status: int
) -> None:
    with start(LEFT_OPEN.format(end=end), tmp_path / "s") as process:
        _, errors = process.communicate(timeout=HANGS_AFTER_SECONDS)
    assert process.returncode == status, errors
    assert "Warning" not in errors
    check_closed(tmp_path / "s")
    with hs.open(tmp_path / "s") as store:
        assert [r.payload for r in store.stream("orders").read()] == [b"first", b"second"]
        assert store.subscription("s").lag() == hs.Lag(0, 1)


def test_a_store_of_an_event_loop_left_open_is_closed_too(tmp_path: Path) -> None:
    script = """
import asyncio, sys, hstreamlite as hs
async def main():
    store = await hs.aio.open(sys.argv[1])
    stream = await store.create_stream("orders")
    await stream.append(b"first")
asyncio.run(main())
"""
    with start(script, tmp_path / "s") as process:
        _, errors = process.communicate(timeout=HANGS_AFTER_SECONDS)
    assert (process.returncode, errors) == (0, "")
    check_closed(tmp_path / "s")
