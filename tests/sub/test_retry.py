"""What becomes of a delivery that comes back."""

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from hstreamlite.sub.leases import Fate
from hstreamlite.sub.retry import Backoff, Cause, RetryPolicy, fate_of

SECOND = 1_000_000_000
SECONDS = st.floats(0.001, 86_400)
BACKOFFS = st.builds(
    lambda ends, factor: Backoff(first=min(ends), most=max(ends), factor=factor),
    st.tuples(SECONDS, SECONDS),
    st.floats(1, 100),
)
POLICIES = st.builds(
    RetryPolicy, max_attempts=st.integers(0, 20), backoff=st.one_of(st.none(), BACKOFFS)
)
ATTEMPTS = st.integers(1, 25)
CAUSES = st.sampled_from(Cause)
AFTER = st.one_of(st.none(), st.integers(0, 1 << 62))


@given(POLICIES, ATTEMPTS, CAUSES, st.integers(0, 1 << 62), AFTER)
def test_a_record_is_doomed_when_it_was_delivered_often_enough_and_never_before(
    policy: RetryPolicy, attempt: int, cause: Cause, now: int, after: int | None
) -> None:
    fate, due = fate_of(policy, attempt, cause, now, after)
    assert (fate is Fate.DOOMED) == (0 < policy.max_attempts <= attempt)
    assert (fate is Fate.DELAYED) == (due > now)
    assert due >= now


@given(POLICIES, ATTEMPTS, st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_a_time_that_was_asked_for_goes_before_the_backoff(
    policy: RetryPolicy, attempt: int, after: int, now: int
) -> None:
    fate, due = fate_of(policy, attempt, Cause.RELEASED, now, after)
    assert fate is Fate.DOOMED or due == now + after


@given(BACKOFFS, st.lists(st.integers(1, 10_000), min_size=2))
def test_waits_grow_from_the_first_to_the_longest(backoff: Backoff, attempts: list[int]) -> None:
    assert backoff.after_ns(1) == int(backoff.first * SECOND)
    waits = [backoff.after_ns(attempt) for attempt in sorted(attempts)]
    assert all(before <= after for before, after in pairwise(waits))
    assert waits[-1] <= backoff.most * SECOND


def test_only_releases_and_timeouts_back_off() -> None:
    policy = RetryPolicy(backoff=Backoff(first=1, most=60))
    dues = {cause: fate_of(policy, 3, cause, 7)[1] - 7 for cause in Cause}
    assert dues == {
        Cause.TIMEOUT: 4 * SECOND,
        Cause.RELEASED: 4 * SECOND,
        Cause.LEFT: 0,
        Cause.GONE: 0,
        Cause.RESTART: 0,
    }


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"first": 0, "most": 1}, ValueError, r"backoff\.first must be from 0\.001"),
        ({"first": 1, "most": 1e9}, ValueError, r"backoff\.most must be from"),
        ({"first": 5, "most": 1}, ValueError, r"backoff\.most is 1, must not be below first, 5"),
        ({"first": "1", "most": 1}, TypeError, r"backoff\.first must be a number"),
        ({"first": 1, "most": float("nan")}, ValueError, r"backoff\.most"),
        ({"first": 1, "most": 2, "factor": 0.5}, ValueError, "factor must be from 1 to 100, not"),
        ({"first": 1, "most": 2, "factor": None}, TypeError, "factor must be a number, not None"),
    ],
)
def test_a_backoff_that_means_nothing_is_refused(
    options: dict[str, float], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Backoff(**options)


@pytest.mark.parametrize("count", [-1, 10_001])
def test_attempts_are_bounded(count: int) -> None:
    with pytest.raises(ValueError, match="max_attempts must be from 0 to 10000"):
        RetryPolicy(max_attempts=count)
