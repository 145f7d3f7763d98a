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


@pytest.mark.parametrize("accepted", [False, True])
def test_a_reader_that_meets_damage_names_the_stream(tmp_path: Path, *, accepted: bool) -> None:
    path = tmp_path / "s"
    with hs.open(path) as store:
        store.create_stream("orders").append(b"payload-0")
        store.stream("orders").append(b"payload-1")
    (file,) = [f for f in path.rglob("*.seg") if b"payload-1" in f.read_bytes()]
    at = file.read_bytes().find(b"payload-1")
    with file.open("r+b") as segment:
        segment.seek(at)
        segment.write(b"X")
    with hs.open(path, read_only=accepted, accept_damage=accepted) as store:
        reader = store.stream("orders").read()
        seen: list[object] = []
        with pytest.raises(hs.CorruptionError, match="of stream 'orders'") as caught:
            seen.extend(record.payload for record in reader)
    assert caught.value.lost == (hs.LostRecords(1, 2, 2, "orders"),)


def test_a_reader_that_was_trimmed_away_names_the_stream(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        stream = store.create_stream("orders")
        stream.append_many([b"%d" % n for n in range(2000)])
        with stream.read() as reader:
            next(reader)
            stream.trim(before=hs.LATEST)
            with pytest.raises(hs.RecordTrimmed, match="of stream 'orders'") as caught:
                list(reader)
    assert caught.value.stream == "orders"
