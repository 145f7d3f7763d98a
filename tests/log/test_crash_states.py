"""Hundreds of thousands of ways to stop a store: each recovers to what was promised.

Goal: whatever survives of a crash at any step, the store opens, and shows no less than was
acknowledged, no more than was submitted, and every call whole. Method: seeded workloads are
recorded, crashed at each of their steps in many ways, and each distinct disk is recovered. Some are
written to again and crashed once more, at the steps of the recovery and of the writing.

``HSTREAMLITE_LONG=1`` tries ten times as many.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

import hstreamlite as hs
from hstreamlite.engine import Engine
from hstreamlite.testing.crash import CrashState, Recording
from hstreamlite.testing.ledger import Scribe, Shown, recovered
from tests import effort
from tests.log.crash_runs import Run, entries, workload_run

PARTS = effort.of(7, brief=2) * (10 if effort.LONG else 1)
RUNS = effort.of(4, brief=1)
CALLS = 25
CUTS = effort.of(14, brief=6)

Seen = dict[tuple[int, bool], Shown]


@dataclass
class Tally:
    states: int = 0
    distinct: int = 0
    opens: int = 0
    doubles: int = 0
    recoveries: int = 0
    records: int = 0


def examine(
    run: Run, state: CrashState, seen: Seen, tally: Tally, rng: random.Random | None
) -> None:
    """Recover a state, if no equal one was, and judge what it shows."""
    tally.states += 1
    key = state.hash, state.fate == "process"
    try:
        shown = seen.get(key)
        if shown is None:
            tally.distinct += 1
            again = rng is not None and rng.random() < 0.2
            shown = seen[key] = (
                live_on(run, state, tally, rng) if again else recover(run, state, tally)
            )
            tally.records += shown.records
        run.ledger.judge(state.step, state.fate, shown)
    except BaseException as error:
        error.add_note(f"{state} of {len(run.recording)} steps")
        raise


def recover(run: Run, state: CrashState, tally: Tally) -> Shown:
    """Open the engine; the whole store, and close it, for one state in twelve."""
    env = run.next_env(state.files)
    if state.hash % 12:
        return recovered(Engine.open(env, "/db", run.config), run.ledger)
    tally.opens += 1
    with hs.open("/db", config=run.config, env=env) as store:
        return recovered(store, run.ledger)


def live_on(run: Run, state: CrashState, tally: Tally, rng: random.Random) -> Shown:
    """Open the store as its users do, append, and crash at some steps of all that."""
    tally.opens += 1
    env = run.next_env(state.files)
    recording = Recording(env.disk)
    store = hs.open("/db", config=run.config, env=env)
    shown = recovered(store, run.ledger)
    run.ledger.judge(state.step, state.fate, shown)
    ledger = run.ledger.after(state.step, state.fate, shown)
    ledger.settle(recording.position, shown)
    opened = recording.position
    scribe = Scribe(env, store, recording, ledger)
    for name in shown.streams:
        scribe.append(name, entries("again", rng.choice((1, 3)), 900))
    if shown.streams:
        scribe.append(rng.choice(sorted(shown.streams)), entries("weak", 2, 300), level="os")
    recording.stop()
    life = Run(env, run.config, recording, ledger)
    seen: Seen = {}
    steps = range(len(recording))
    if rng.random() < 0.9:
        steps = sorted(rng.sample(steps, 3))
    for step in steps:
        for fate in ("process", "adversary"):
            again = recording.crash(step, fate, rng.getrandbits(32))
            examine(life, again, seen, tally, None)
            tally.doubles += 1
            tally.recoveries += step < opened
    return shown


@pytest.mark.parametrize("part", range(PARTS))
def test_every_crash_state_recovers_to_what_was_promised(part: int) -> None:
    tally = Tally()
    for number in range(RUNS):
        seed = part * 1000 + number
        run = workload_run(seed, CALLS)
        rng = random.Random(seed)
        seen: Seen = {}
        for step in range(len(run.recording)):
            for state in run.recording.states(step, CUTS):
                examine(run, state, seen, tally, rng)
    print(tally)
    # Together more than 200,000 states, 60,000 of them distinct.
    assert tally.states >= effort.of(29_000, brief=1_000)
    assert tally.distinct >= effort.of(9_000, brief=500)
    assert 100 * tally.opens >= effort.of(3, brief=2) * tally.states
