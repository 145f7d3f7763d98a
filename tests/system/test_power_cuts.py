"""Power cuts of a real ext4: what was synced is there, and the store opens, every time."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite._native import lib
from tests import effort
from tests.system.ledger import Ledger, small
from tests.system.machine import Machine
from tests.system.workers import Workers

CUTS = effort.of(40, brief=12)
REPORTS_MAX = 120
REPORTS_OF_OPENING = 8
SEED = 24
LEVELS = ["sync", "os", "memory"]
SETTINGS = {
    "direct": small(),
    "direct, nothing prewritten": small(prewrite_bytes=0),
    "buffered": small(direct_io=False),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("write_cache", [False, True], ids=["device keeps", "device caches"])
def test_nothing_synced_is_lost_by_a_power_cut(
    tmp_path: Path, settings: str, write_cache: bool, say: Callable[[str], None]
) -> None:
    config = SETTINGS[settings]
    random_ = random.Random(SEED)
    ledger = Ledger()
    with Machine(tmp_path / "m", write_cache=write_cache) as machine:
        path = machine.disk / "s"
        with Workers(*machine.enter) as workers:
            for cut in range(CUTS):
                worker = workers.start(
                    do="write", path=str(path), life=ledger.begin(), levels=LEVELS, config=config
                )
                most = REPORTS_OF_OPENING if cut % 3 == 1 else REPORTS_MAX
                for words in worker.reports_until(random_.randrange(most), machine.cut):
                    ledger.take(words)
                assert worker.status in (-signal.SIGKILL, -signal.SIGBUS) or ledger.failed
                ledger.end("power cut")
                machine.power_off()
                machine.power_on()
                # Otherwise the next worker recovers, and every third one is cut off about then.
                if cut % 3 == 2 or cut == CUTS - 1:
                    with hs.open(machine.seen(path), config=hs.StoreConfig(**config)) as store:
                        ledger.check(store)
                        direct = config.get("direct_io", True) and not lib.hsl_io_portable()
                        assert store.stats().log["direct"] == direct
        with hs.open(machine.seen(path)) as store:
            ledger.check(store)
            ledger.drain(store)
    cache = "with" if write_cache else "without"
    say(f"{settings}, {cache} a write cache: {CUTS} cuts, {Ledger.tell(ledger.counts)}")
