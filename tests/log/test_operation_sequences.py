"""Every sequence of up to three operations out of ten, crashed at every step of its last one.

Goal: no order of a few operations hides a state that recovers to anything but what was promised.
Most bugs of this kind need no more than three. The operations before the last one are those of a
shorter sequence, whose steps are crashed there.

``HSTREAMLITE_LONG=1`` adds the sequences of four.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

import hstreamlite as hs
from hstreamlite.engine import Engine
from hstreamlite.testing.crash import Fate, Recording
from hstreamlite.testing.ledger import Scribe, Shown, recovered
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from tests import effort
from tests.log.crash_runs import entries

LENGTH = 4 if effort.LONG else effort.of(3, brief=2)
FATES: tuple[Fate, ...] = ("process", "drop", "keep", "torn")
CONFIG = small_config(segment_bytes_max=64 << 10)


def append(scribe: Scribe) -> None:
    scribe.append("a", entries("one", 1, 300))


def append_wide(scribe: Scribe) -> None:
    scribe.append("b", entries("wide", 6, 200, keys=5), compression="zstd")


def append_os(scribe: Scribe) -> None:
    scribe.append("a", entries("os", 2, 900), level="os")


def append_memory_and_idle(scribe: Scribe) -> None:
    scribe.append("b", entries("memory", 2, 500), level="memory")
    scribe.pass_time(CONFIG.idle_mark + 0.1)


def transact(scribe: Scribe) -> None:
    scribe.transact({"a": entries("tx", 2, 400), "b": entries("tx", 3, 400, keys=3)})


def fill(scribe: Scribe) -> None:
    scribe.append("a", entries("fill", 8, 3500))


def produce(scribe: Scribe) -> None:
    scribe.produce("a", "p", entries("produced", 2, 100))


def trim(scribe: Scribe) -> None:
    scribe.trim("a", keep=1)


def replace(scribe: Scribe) -> None:
    """Delete the stream made last, and make another."""
    extra = [name for name in scribe.ledger.homes if name.startswith("c")]
    if extra:
        scribe.delete(extra[-1])
    scribe.create(f"c{len(extra)}", shards=2)


def snapshot(scribe: Scribe) -> None:
    scribe.snapshot()
    scribe.free()


def reopen(scribe: Scribe) -> None:
    scribe.close()
    scribe.store = hs.open("/db", config=CONFIG, env=scribe.env)


OPERATIONS: tuple[Callable[[Scribe], None], ...] = (
    append,
    append_wide,
    append_os,
    append_memory_and_idle,
    transact,
    fill,
    trim,
    replace,
    snapshot,
    reopen,
)


class Start:
    """Before a recording begins, everything is at its first step."""

    position = 0


def crash_last(env: SimEnv, sequence: tuple[Callable[[Scribe], None], ...]) -> tuple[int, int]:
    """Run a sequence, crash its last operation everywhere; return (states, distinct ones)."""
    scribe = Scribe(env, hs.open("/db", config=CONFIG, env=env), Start())
    scribe.create("a")
    scribe.create("b", shards=2)
    fill(scribe)
    produce(scribe)
    for operation in sequence[:-1]:
        operation(scribe)
    with Recording(env.disk) as recording:
        scribe.positions = recording
        sequence[-1](scribe)
    seen: dict[tuple[int, bool], Shown] = {}
    states = 0
    for step, fate in product(range(len(recording)), FATES):
        state = recording.crash(step, fate, step)
        states += 1
        key = state.hash, fate == "process"
        try:
            if key not in seen:
                engine = Engine.open(env.after(state.files), "/db", CONFIG)
                seen[key] = recovered(engine, scribe.ledger)
            scribe.ledger.judge(step, fate, seen[key])
        except BaseException as error:
            names = ", ".join(operation.__name__ for operation in sequence)
            error.add_note(f"{names}: {state} of {len(recording)} steps")
            raise
    return states, len(seen)


@pytest.mark.timeout(3600 if LENGTH == 4 else 300)
@pytest.mark.parametrize("first", OPERATIONS, ids=lambda operation: operation.__name__)
def test_short_sequences_crashed_anywhere_recover(first: Callable[[Scribe], None]) -> None:
    sequences = states = distinct = 0
    for length in range(LENGTH):
        for rest in product(OPERATIONS, repeat=length):
            env = SimEnv(seed=sequences)
            if sequences % 2:
                env.disk.set_direct(0)
            tried, found = crash_last(env, (first, *rest))
            sequences += 1
            states += tried
            distinct += found
    print(f"sequences: {sequences}, crash states: {states}, distinct: {distinct}")
    assert sequences == sum(len(OPERATIONS) ** n for n in range(LENGTH))
    assert states > 10 * sequences
