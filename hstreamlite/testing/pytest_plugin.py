"""Fixtures for tests of what uses hstreamlite; pytest finds them where the package is installed.

``hs_store`` is an open store, closed after the test. ``hs_clock`` is time that stands still until
it is told to pass; a test that asks for both has a store in that time, on a disk in memory.

Loading this loads nothing of the library: fixtures do, when a test asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import hstreamlite as hs
    from hstreamlite.testing.virtual import VirtualClock


@pytest.fixture
def hs_clock() -> VirtualClock:
    """Virtual time: `advance` lets timeouts, back-off and retention happen, without waiting."""
    from hstreamlite.testing.virtual import VirtualClock

    return VirtualClock()


@pytest.fixture
def hs_store(request: pytest.FixtureRequest) -> Iterator[hs.Store]:
    """An open store: in a directory of its own, or in virtual time where `hs_clock` is asked for.

    The first is a store as in production, with threads. The other starts none: receiving and
    iterating end, and `consumer.run` returns, when there is nothing to be had at this time.
    """
    import hstreamlite

    if "hs_clock" in request.fixturenames:
        clock: VirtualClock = request.getfixturevalue("hs_clock")
        store = clock.open()
    else:
        store = hstreamlite.open(request.getfixturevalue("tmp_path") / "hs_store")
    with store:
        yield store
