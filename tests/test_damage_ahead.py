"""A record that cannot be read takes nothing along that could be."""

from __future__ import annotations

from pathlib import Path

import pytest

import hstreamlite as hs


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_what_was_handed_out_before_damage_is_met_is_received(
    tmp_path: Path, mode: str, shards: int
) -> None:
    path = tmp_path / "s"
    with hs.open(path) as store:
        store._engine.create_stream("orders", shards=shards)
        stream = store.stream("orders")
        for n in range(20):
            stream.append(b"payload-%02d" % n, key=f"k{n}")
        subscription = store.create_subscription("billing", stream="orders", mode=mode)
        with subscription.consumer("w") as consumer:
            held = consumer.receive(20)
            consumer.ack([delivery for delivery in held if int(delivery.payload[-2:]) % 2])
    for file in path.rglob("*"):
        if file.is_file() and (at := file.read_bytes().find(b"payload-12")) >= 0:
            with file.open("r+b") as segment:
                segment.seek(at)
                segment.write(b"X")
    with hs.open(path) as store, store.subscription("billing").consumer("w") as consumer:
        seen: list[hs.Delivery] = []
        with pytest.raises(hs.CorruptionError):
            while True:
                seen += consumer.receive(20, timeout=0)
                assert len(seen) <= 20
        assert len({delivery.id for delivery in seen}) == len(seen)
        assert consumer.ack(seen).new == len(seen)
        (attached,) = store.stats().subscriptions["billing"].attached
        assert attached.unacked == 0, "nothing is held that was not received"
