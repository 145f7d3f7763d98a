"""The fixtures that users' tests get."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.testing.virtual import VirtualClock

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PLUGIN = "hstreamlite.testing.pytest_plugin"


def outcome(pytester: pytest.Pytester, source: str) -> dict[str, int]:
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider").parseoutcomes()


@pytest.fixture(autouse=True)
def _finds_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(hs.__file__).parent.parent))


def test_each_test_has_a_store_of_its_own_that_is_closed_at_its_end(
    pytester: pytest.Pytester,
) -> None:
    found = outcome(
        pytester,
        """
        import pytest, hstreamlite as hs
        kept = []

        @pytest.mark.parametrize("n", range(3))
        def test_store(hs_store, tmp_path, n):
            assert hs_store.path.startswith(str(tmp_path))
            assert hs_store.streams() == []
            hs_store.create_stream("s").append(b"x")
            assert all(store.closed for store in kept)
            kept.append(hs_store)

        def test_end():
            assert len(kept) == 3 and all(store.closed for store in kept)
        """,
    )
    assert found == {"passed": 4}


def test_a_store_and_a_clock_belong_together(pytester: pytest.Pytester) -> None:
    found = outcome(
        pytester,
        """
        import threading, pytest, hstreamlite as hs

        @pytest.fixture
        def jobs(hs_store):
            hs_store.create_stream("jobs", backlog=3600).append_many([b"1", b"2"])
            return hs_store.create_subscription("s", stream="jobs", ack_timeout=30)

        def test_timeouts(hs_clock, jobs):
            with jobs.consumer("w") as consumer:
                first = consumer.receive()
                consumer.ack(first[0])
                hs_clock.advance(29.9)
                assert consumer.receive(timeout=0) == ()
                hs_clock.advance(0.2)
                (again,) = consumer.receive()
                assert (again.payload, again.attempt) == (b"2", 2)

        def test_retention(hs_store, jobs, hs_clock):
            hs_clock.advance(1800)
            assert len(list(hs_store.stream("jobs").read())) == 2
            hs_clock.advance(2 * 3600)
            assert list(hs_store.stream("jobs").read()) == []

        def test_run(jobs, hs_clock):
            attempts = []
            def fail(delivery):
                attempts.append(delivery.attempt)
                raise LookupError
            with jobs.consumer("w") as consumer:
                consumer.run(fail)
                consumer.run(fail)
            assert attempts == [1, 1, 2, 2]
            assert threading.active_count() == 1

        def test_real_time(jobs):
            assert threading.active_count() > 1
        """,
    )
    assert found == {"passed": 4}


def test_the_example_of_the_documentation_passes(pytester: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n((?:(?!```).)*hs_clock.*?)```", page, flags=re.DOTALL)
    assert outcome(pytester, example) == {"passed": 2}


def test_loading_the_plugin_loads_nothing_of_the_library() -> None:
    program = f"""
import sys, pytest
import {PLUGIN}
print([name for name in sys.modules if name.startswith("hstreamlite")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert eval(done.stdout) == ["hstreamlite", "hstreamlite.testing", PLUGIN], done.stderr


def test_pytest_finds_it_where_the_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_a_long_time_passes_in_few_steps_and_in_order() -> None:
    clock = VirtualClock()
    store = clock.open()
    store.create_stream("jobs").append(b"x")
    subscription = store.create_subscription("s", stream="jobs", ack_timeout=60)
    before = clock.now()
    ticks = 0
    tick = store.tick

    def counted() -> int | None:
        nonlocal ticks
        ticks += 1
        return tick()

    store.tick = counted
    with subscription.consumer("w") as consumer:
        assert len(consumer.receive()) == 1
        clock.advance(timedelta(days=30))
        assert consumer.receive()[0].attempt == 2
    assert clock.now() - before == timedelta(days=30)
    assert 2 <= ticks <= 1002
    store.close()
    clock.advance(1)


@pytest.mark.parametrize("by", [-1, float("nan"), 1e10])
def test_time_does_not_go_back_or_on_for_ever(by: float) -> None:
    with pytest.raises(ValueError, match="by"):
        VirtualClock().advance(by)
