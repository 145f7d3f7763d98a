"""The catalog: what each record does to it, alone and half-way through a snapshot."""

from __future__ import annotations

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
