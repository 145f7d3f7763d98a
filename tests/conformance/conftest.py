import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio

from hstreamlite.remote import blocking_consumer, subscription
from hstreamlite.remote.attachment import LEASE_SECONDS_MAX
from tests.conformance.faces import FACES, Face, Store, params

# Calls that wait for one another need a thread each.
WAITING_CALLS_MAX = 64


@pytest.fixture(params=params(*FACES))
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


@pytest.fixture(autouse=True)
def _long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may stand still for longer than what consumers behind a connection have by default:
    they would have left by then."""
    for noun in (subscription.Subscription, blocking_consumer.Subscription):
        monkeypatch.setitem(noun.consumer.__kwdefaults__, "lease", LEASE_SECONDS_MAX)


@pytest_asyncio.fixture
async def store(face: Face, tmp_path: Path) -> AsyncIterator[Store]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WAITING_CALLS_MAX))
    async with face.open(tmp_path / "store") as opened:
        yield opened
