"""Hypothesis profiles: dev (quick), ci, brief (what is tried of another build than the usual one),
nightly (long), probe, which only tells whether a test fails, and planted, which tells it of a
planted bug; HYPOTHESIS_PROFILE names another than dev.

No profile has a deadline, or looks how long it takes to draw examples: a busy machine may stop a
test for longer than any time that means something.
"""

import ctypes
import gc
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.effort import PROFILE

UNTIMED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", **UNTIMED, max_examples=50)
# The same examples for the same code: what is tried before a change lands is what lands. Fresh ones
# are drawn by dev, nightly and probe.
settings.register_profile("ci", **UNTIMED, max_examples=150, print_blob=True, derandomize=True)
settings.register_profile("brief", **UNTIMED, max_examples=20, print_blob=True, derandomize=True)
settings.register_profile("nightly", **UNTIMED, max_examples=5000, print_blob=True)
settings.register_profile(
    "probe", **UNTIMED, max_examples=100, phases=[Phase.generate], database=None
)
settings.register_profile("planted", settings.get_profile("probe"), derandomize=True)
settings.load_profile(PROFILE)


def pytest_collection_finish() -> None:
    """Keep the tests themselves, millions of objects, from being searched for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Have what earlier tests left told of before the test begins, and not amid it."""
    gc.collect()
    return caplog


@pytest.fixture
def frozen_heap() -> None:
    """Keep what earlier tests left out of the collections of a test that counts what is freed."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what the C code counted: a worker of pytest-xdist ends without its exit handlers."""
    from hstreamlite._native import _lib

    core = ctypes.CDLL(_lib.__file__)
    if hasattr(core, "__gcov_dump"):
        getattr(core, "__gcov_dump")()
