"""What grants allow, against a slow and obvious reading of them."""

import pytest
from hypothesis import given, strategies as st

from hstreamlite.net.access.config import ACTIONS, GrantConfig
from hstreamlite.net.access.policy import Caller, Policy

ROLES = ("billing", "shop", "*")
BEGINNINGS = ("", "o", "orders", "orders-eu", "p")
NAMES = ("o", "orders", "orders-eu-1", "ordersx", "payments", "x")

grants = st.lists(
    st.builds(
        GrantConfig,
        role=st.sampled_from(ROLES),
        actions=st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=3).map(tuple),
        streams=st.lists(st.sampled_from(BEGINNINGS), min_size=1, max_size=2).map(tuple),
        subscriptions=st.lists(st.sampled_from(BEGINNINGS), max_size=2).map(tuple),
    ),
    max_size=4,
)


def reading(given: list[GrantConfig], role: str, action: str, kind: str, name: str) -> bool:
    for grant in given:
        beginnings = grant.streams if kind == "stream" else grant.subscriptions
        if (
            grant.role in (role, "*")
            and action in grant.actions
            and any(name.startswith(beginning) for beginning in beginnings)
        ):
            return True
    return not given


@given(
    grants,
    st.sampled_from(("billing", "shop", "nobody")),
    st.sampled_from(ACTIONS),
    st.sampled_from(("stream", "subscription")),
    st.sampled_from(NAMES),
)
def test_grants_allow_what_they_say_and_nothing_else(
    given: list[GrantConfig], role: str, action: str, kind: str, name: str
) -> None:
    policy = Policy(given)
    caller = Caller(role)
    allowed = reading(given, role, action, kind, name)
    assert policy.allows(caller, action, kind, name) == allowed
    any_action = any(reading(given, role, each, kind, name) for each in ACTIONS)
    assert policy.allows(caller, None, kind, name) == any_action
    assert policy.allows(Caller(role, trusted=True), action, kind, name)
    if policy.allows(caller, action, kind, None):
        assert all(reading(given, role, action, kind, other) for other in NAMES)


def test_what_has_no_name_is_for_those_who_may_touch_all() -> None:
    policy = Policy([GrantConfig(role="a", actions=("read",), streams=("orders",))])
    assert not policy.allows(Caller("a"), "read", "stream", None)
    policy = Policy([GrantConfig(role="a", actions=("read",), streams=("",))])
    assert policy.allows(Caller("a"), "read", "stream", None)
    assert not policy.allows(Caller("a"), "read", "subscription", None)


def test_admin_and_monitor_are_granted_by_name_only() -> None:
    every = tuple(action for action in ACTIONS if action not in ("admin", "monitor"))
    policy = Policy([GrantConfig(role="a", actions=every, streams=("",), subscriptions=("",))])
    assert not policy.allows(Caller("a"), "admin", None)
    policy = Policy([GrantConfig(role="a", actions=("monitor",))])
    assert policy.allows(Caller("a"), "monitor", None)
    assert not policy.allows(Caller("a"), "admin", None)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"actions": ("write",)}, "'write'"),
        ({"actions": ()}, "no action"),
        ({"actions": ("read",)}, "not where"),
        ({"actions": ("read",), "streams": "orders"}, "tuple of texts"),
        ({"actions": ("admin",), "role": ""}, "role"),
        ({"actions": ("admin",), "role": "a\nb"}, "role"),
    ],
)
def test_a_grant_that_says_nothing_or_too_much_is_refused(
    options: dict[str, object], why: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=why):
        GrantConfig(**{"role": "a"} | options)
