"""Hash ranges as HStreamDB cuts them, and the catalog's counters."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hstreamlite.log.catalog import Catalog, SubscriptionState, subscription_change
from hstreamlite.log.keyspace import HASH_MAX, Router, key_hash, split


def test_two_shards_meet_where_hstreamdb_cuts() -> None:
    low, high = split([1, 2])
    assert (low.start, low.end) == (0, 170141183460469231731687303715884105726)
    assert (high.start, high.end) == (170141183460469231731687303715884105727, HASH_MAX)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 256])
def test_ranges_cover_the_space_without_overlap_and_hold_their_keys(width: int) -> None:
    shards = split(range(10, 10 + width))
    assert shards[0].start == 0
    assert shards[-1].end == HASH_MAX
    assert all(a.end + 1 == b.start for a, b in pairwise(shards))
    router = Router(shards)
    for key in map(str, range(200)):
        shard = shards[router.shard_of(key) - 10]
        assert shard.start <= key_hash(key) <= shard.end


def test_more_keys_than_are_remembered_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router, "REMEMBERED_MAX", 7)
    router = Router(split([1, 2, 3]))
    keys = [str(number) for number in range(40)]
    assert [router.shard_of(key) for key in keys] == [router.shard_of(key) for key in keys]
    assert len(router._known) <= 7


def test_ids_of_subscriptions_are_never_given_twice() -> None:
    catalog = Catalog()
    for number in range(1, 6):
        assert catalog.next_subscription == number
        state = SubscriptionState(
            id=number, name=f"s{number}", stream_id=1, created_ms=0, start={1: 1}
        )
        catalog.apply(subscription_change(state))
