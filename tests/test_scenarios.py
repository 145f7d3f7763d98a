"""Stories of subscriptions, as text files, played against a store in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

from hstreamlite.testing.scenario import Scenario, ScenarioFailed

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    scenario = Scenario()
    assert scenario.play(path.name, path.read_text()) > 10
    scenario.close()


BEGIN = "given shared, ack_timeout 30, max_attempts 2\nappend k1/a -/b\nA attaches\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("A fetches 9\nA sees k1/a\nlag 2", "lag 2\n    AssertionError: A also got -/b attempt 1"),
        ("A fetches 1\nA sees -/b", "A got k1/a attempt 1, not -/b attempt 1"),
        ("A fetches 1\nA sees k1/a attempt 2", "A got k1/a attempt 1, not k1/a attempt 2"),
        ("A fetches 1\nA sees k1/a -/b", "A got nothing more, not -/b"),
        ("A fetches 1\nA sees nothing", "A got k1/a attempt 1"),
        ("A fetches 1\nA sees k1/a\nA acks k1/a: void", "that was {'new': 1"),
        ("A acks k1/a", "A never got k1/a"),
        ("A fetches 1\nA sees k1/a\nA commits k1/a: LeaseLost", "it did not fail"),
        ("A fetches 1\nA sees k1/a\nA leaves\nA commits k1/a", "it failed with LeaseLost"),
        ("A is closed", "A is attached"),
        ("A hears of a seek", "A heard of nothing"),
        ("B fetches 1", "B has not attached"),
        ("A dances", "ValueError: no such sentence"),
        ("given shared", "StoreLocked"),
        ("lag 1", "2 records are behind"),
        ("blocked span full", "blocked is ''"),
        ("dead k1/a attempts 2 reason timeout", "dead are none"),
    ],
)
def test_a_line_that_does_not_hold_is_named(line: str, says: str) -> None:
    number = len((BEGIN + line).splitlines())
    with pytest.raises(ScenarioFailed) as failure:
        Scenario().play("story.txt", BEGIN + line)
    assert f"story.txt:{number}: " in str(failure.value)
    assert says in str(failure.value)


def test_a_scenario_begins_with_what_is_given() -> None:
    with pytest.raises(ScenarioFailed, match=r"story\.txt:1: append k1/a\n.*begins with `given`"):
        Scenario().play("story.txt", "append k1/a")
    with pytest.raises(ScenarioFailed, match="there is no setting 'speed'"):
        Scenario().play("story.txt", "given shared, speed 9")
