"""Statistics that go over a network as JSON come back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import hstreamlite as hs
from hstreamlite.info import stats_facts, stats_from


def test_stats_come_back_as_they_were(tmp_path: Path) -> None:
    with hs.open(tmp_path / "store") as store:
        store.create_stream("idle")
        stream = store.create_stream("a")
        stream.append_many([b"x" * 100] * 100)
        with store.create_subscription("s", stream="a").consumer("c") as consumer:
            consumer.ack(consumer.receive(50)[:20])
            stats = store.stats()
    assert stats_from(json.loads(json.dumps(stats_facts(stats)))) == stats


def test_streams_that_nothing_passed_through_cost_their_names(tmp_path: Path) -> None:
    with hs.open(tmp_path / "store") as store:
        with store.transaction() as transaction:
            for number in range(1000):
                transaction.create_stream(f"s{number}")
        stats = store.stats()
    text = json.dumps(stats_facts(stats))
    assert len(text) < 20_000
    assert stats_from(json.loads(text)) == stats
