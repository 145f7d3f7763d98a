"""Every sync of a run fails once, and the bytes since the one before are lost.

Nothing may be acknowledged over it, the file of a failed sync is never written again, and the store
holds after reopening what was acknowledged before.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.system.ledger import Ledger, small
from tests.system.workers import Workers

ROUNDS = 2
LEVELS = ["sync", "os", "memory"]
REFUSED = 7


def put_back(lost: Path) -> int:
    """Let the cache drop what the failed sync lost, if the file is still there; count writes."""
    file = Path(f"{lost}.link")
    if not file.exists():
        return 0
    writes, data = 0, memoryview(lost.read_bytes())
    with file.open("rb+") as output:
        while data and file.stat().st_nlink > 1:
            offset, size = struct.unpack_from("<QQ", data)
            output.seek(offset)
            output.write(data[16 : 16 + size])
            data = data[16 + size :]
            writes += 1
    file.unlink()
    return writes


@pytest.mark.parametrize(
    ("how", "direct"),
    [("loses", True), ("loses", False), ("keeps", False)],
    ids=["direct, lost", "buffered, lost", "buffered, lost later"],
)
def test_no_sync_that_fails_costs_what_was_acknowledged(
    tmp_path: Path, shim: str, how: str, direct: bool, say: Callable[[str], None]
) -> None:
    config = small(direct_io=direct)
    errors: Counter[str] = Counter()
    total: Counter[str] = Counter()
    reverted = 0
    with Workers(env={"LD_PRELOAD": shim}) as workers:
        for number in count(1):
            ledger, path, lost = Ledger(), tmp_path / str(number), tmp_path / "lost"
            write = {"do": "write", "path": str(path), "levels": LEVELS, "config": config}
            fault = {"SHIM_SYNC": str(number)}
            fault |= {"SHIM_LOSES": "1"} if how == "loses" else {"SHIM_KEEPS": str(lost)}
            struck, refused = "", 0
            worker = workers.start(**write, life=ledger.begin(), rounds=ROUNDS, env=fault)
            for words in worker:
                if words[0] == "struck":
                    struck = words[1]
                else:
                    refused += words[0] in ("refused", "accepted")
                    ledger.take(words)
            assert worker.status == 0
            if not struck:
                assert not ledger.failed
                break
            assert ledger.failed_well() or (struck == "directory" and not ledger.failed)
            assert refused == REFUSED * ledger.failed.startswith("StoreFailed")
            errors[ledger.failed or "none seen"] += 1
            ledger.end("kill")
            if how == "keeps":
                with hs.open(path, config=hs.StoreConfig(**config)) as store:
                    ledger.check(store)
                reverted += put_back(lost)
            for words in workers.start(**write, life=ledger.begin(), rounds=1):
                ledger.take(words)
            assert not ledger.failed
            with hs.open(path, config=hs.StoreConfig(**config)) as store:
                ledger.check(store)
                ledger.drain(store)
            total += ledger.counts
    assert number > 40
    where = "direct" if direct else "buffered"
    say(
        f"{where}, bytes lost {'at once' if how == 'loses' else f'later ({reverted} put back)'}: "
        f"{number - 1} syncs failed, {dict(errors)}; {Ledger.tell(total)}"
    )
