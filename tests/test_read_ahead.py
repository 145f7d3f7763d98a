"""Consumers that share what is read ahead of them: who comes while another one reads on."""

from __future__ import annotations

import pytest

import hstreamlite as hs
from hstreamlite.log.catalog import Mode
from hstreamlite.testing.simenv import SimEnv

RECORDS = 1000


@pytest.mark.parametrize("mode", ["shared", "ordered"])
def test_who_comes_while_another_reads_takes_what_is_left_and_then_asks_the_group(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hs.open("/db", env=SimEnv(seed=1)) as store:
        stream = store.create_stream("events")
        stream.append_many([b"%d" % n for n in range(RECORDS)])
        group = store.create_subscription("group", stream="events", mode=mode)
        consumer = group.consumer("a")
        found = [raw for _ in range(3) for raw in consumer.receive(10).payloads()]
        feed = consumer._feed
        hatch = feed.group.hatch()
        assert hatch is not None
        before = hatch.taken()
        monkeypatch.setattr(feed.ahead, "_wait", lambda: None)  # in vain: a read of others followed
        with feed.ahead._reading:  # as a thread does that reads on, and is slow
            while True:
                taken = hatch.taken()
                found += consumer.receive(10).payloads()
                if hatch.taken() == taken:
                    break
            assert taken - before >= 20, "that is all that was left of what was read"
            found += consumer.receive(10).payloads()
        while batch := consumer.receive(10, timeout=0):
            found += batch.payloads()
        assert found == [b"%d" % n for n in range(RECORDS)]
