"""The catalog: what each record does to it, alone and half-way through a snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hstreamlite.log.catalog import (
    Catalog,
    Change,
    StreamState,
    SubscriptionState,
    decode,
    encode,
    stream_change,
    subscription_change,
)


def stream(number: int, name: str) -> StreamState:
    return StreamState(id=number, name=name, shard_ids=(number,), created_ms=0)


def filled() -> Catalog:
    """Two streams, and two subscriptions of the first."""
    catalog = Catalog()
    for state in (stream(1, "a"), stream(2, "b")):
        catalog.apply(stream_change(state))
    for number, name in ((1, "s"), (2, "t")):
        state = SubscriptionState(id=number, name=name, stream_id=1, created_ms=0, start={1: 1})
        catalog.apply(subscription_change(state))
    return catalog


def facts(catalog: Catalog) -> tuple[object, ...]:
    return (
        sorted(catalog.streams),
        sorted(catalog.by_id),
        sorted(catalog.subscriptions),
        {stream: sorted(names) for stream, names in catalog.by_stream.items()},
    )


def test_the_backlog_of_a_deleted_stream_stays_until_its_last_subscription_goes() -> None:
    catalog = filled()
    catalog.apply({"op": "delete_stream", "id": 1, "archive": True})
    assert facts(catalog) == (["b"], [1, 2], ["s", "t"], {1: ["s", "t"]})
    catalog.apply({"op": "delete_subscription", "name": "s"})
    assert facts(catalog) == (["b"], [1, 2], ["t"], {1: ["t"]})
    catalog.apply({"op": "delete_subscription", "name": "t"})
    assert facts(catalog) == (["b"], [2], [], {})


@pytest.mark.parametrize("paused", [True, False])
def test_a_subscription_is_what_was_said_of_it_last_also_after_a_snapshot(paused: bool) -> None:
    catalog = filled()
    for now in (True, paused):
        state = replace(catalog.subscriptions["s"], paused=now)
        catalog.apply(decode(encode(subscription_change(state))))
        assert catalog.subscriptions["s"] == state
    assert facts(catalog) == facts(filled())
    assert catalog.next_subscription == 3
    again = Catalog()
    for change in catalog.snapshot([], [], 0):
        again.apply(decode(encode(change)))
    assert again.subscriptions == catalog.subscriptions
    assert again.subscriptions["s"].paused == paused


def test_a_snapshot_counts_when_its_end_was_read() -> None:
    catalog = filled()
    before = facts(catalog)
    small = Catalog()
    small.apply(stream_change(stream(3, "c")))
    *begun, end = small.snapshot([], [], 0)
    for change in begun:
        catalog.apply(change)
    assert facts(catalog)[2:] == before[2:]
    assert set(catalog.streams) == {"a", "b", "c"}
    catalog.apply(end)
    assert facts(catalog) == (["c"], [3], [], {})


@pytest.mark.parametrize(
    "change",
    [
        {"op": "delete_stream", "id": 2, "archive": False},
        {"op": "delete_subscription", "name": "t"},
    ],
)
def test_a_snapshot_that_its_writer_did_not_end_is_forgotten(change: Change) -> None:
    """The next writer deletes what the part that was written does not hold."""
    catalog, plain = filled(), filled()
    head, first, *_ = filled().snapshot([], [], 0)
    for record in (head, first, change):
        catalog.apply(record)
    plain.apply(change)
    assert facts(catalog) == facts(plain)
    catalog.apply({"op": "snapshot_end"})
    assert facts(catalog) == facts(plain)


def test_a_record_of_an_unknown_kind_or_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown catalog record 'from the future'"):
        Catalog().apply({"op": "from the future"})
    for payload in (b"[]", b"{}", b'"op"', b"1"):
        with pytest.raises(ValueError, match="not a catalog record"):
            decode(payload)
    with pytest.raises(ValueError, match="Expecting value"):
        decode(b"")
    assert decode(encode({"op": "snapshot_end"})) == {"op": "snapshot_end"}


def test_what_older_stores_do_not_know_of_a_subscription_is_left_out_and_filled_in() -> None:
    plain = SubscriptionState(id=1, name="s", stream_id=1, created_ms=0, start={1: 1})
    change = decode(encode(subscription_change(plain)))
    assert not {"max_attempts", "dead_letter", "backoff", "redriven"} & set(change)
    full = replace(
        plain, max_attempts=3, dead_letter="b", backoff=(1.0, 60.0, 2.0), redriven={2: 7}
    )
    catalog = filled()
    for state in (plain, full):
        catalog.apply(decode(encode(subscription_change(state))))
        assert catalog.subscriptions["s"] == state


def test_a_stream_knows_whose_dead_letters_it_takes() -> None:
    catalog = filled()
    for number, name, of, into in ((1, "s", 1, "b"), (3, "u", 2, "c"), (4, "v", 1, "c")):
        state = SubscriptionState(
            id=number, name=name, stream_id=of, created_ms=0, start={}, dead_letter=into
        )
        catalog.apply(subscription_change(state))
    assert (catalog.buried_in("b"), catalog.buried_in("c")) == (("s",), ("u", "v"))
    assert catalog.graves_behind("a") == {"a", "b"}, "there is no c"
    catalog.apply(stream_change(stream(3, "c")))
    assert catalog.graves_behind("a") == {"a", "b", "c"}
    assert catalog.graves_behind("c") == {"c"}
    again = Catalog()
    for change in catalog.snapshot([], [], 0):
        again.apply(decode(encode(change)))
    assert again.buried_in("c") == ("u", "v")
    again.apply({"op": "delete_subscription", "name": "u"})
    assert again.buried_in("c") == ("v",)
