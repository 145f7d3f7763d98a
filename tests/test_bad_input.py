"""Wrong input: a typed error that names argument, value and range, and a store as it was before."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import lib

PACKAGE = Path(hs.__file__).parent.parent
MIB = 1 << 20
NAN, INF = math.nan, math.inf

BAD_NAMES = ["", "a" * 256, "1a", "\u0661a", "a b", " a", "a.b", "a/b", "-a", "_a", "a\n", "a\0"]
GOOD_NAMES = ["a", "a" * 255, "été", "日本", "Orders-2_x", "a\u0661"]
NOT_STR = [None, 5, b"orders", ["orders"], object()]

BAD_PAYLOADS: list[tuple[object, type[Exception], str]] = [
    ("text", TypeError, "not str: encode"),
    (5, TypeError, "not int: wrap"),
    (1.5, TypeError, "not float"),
    (True, TypeError, "not bool"),
    (None, TypeError, "not NoneType"),
    ([b"a"], TypeError, "not list"),
    ((), TypeError, "not tuple"),
    (object(), TypeError, "not object"),
    ({1: 2}, TypeError, "keys of a JSON payload must be str, and 1"),
    ({None: 2}, TypeError, "keys of a JSON payload must be str"),
    ({"a": {1, 2}}, TypeError, "not set"),
    ({"a": b"x"}, TypeError, "not bytes"),
    ({"a": [1, {"b": object()}]}, TypeError, "not object"),
    ({"a": NAN}, ValueError, "cannot hold nan"),
    ({"a": [INF]}, ValueError, "cannot hold inf"),
    ({"a": 2**53 + 1}, ValueError, r"2\*\*53"),
    ({"a": -(10**400)}, ValueError, r"2\*\*53"),
    ({"a": "\ud800"}, ValueError, "surrogate"),
    ({"\ud800": 1}, ValueError, "surrogate"),
]


def nested(depth: int) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    inner = outer
    for _ in range(depth):
        inner["a"] = {}
        inner = inner["a"]
    return outer


def endless() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["again"] = [loop]
    return loop


@pytest.fixture
def store(tmp_path: Path) -> Iterator[hs.Store]:
    with hs.open(tmp_path / "s") as store:
        yield store


@pytest.fixture
def stream(store: hs.Store) -> hs.Stream:
    stream = store.create_stream("orders")
    stream.append(b"first")
    return stream


def payloads(stream: hs.Stream) -> list[object]:
    return [record.payload for record in stream.read()]


def state_of(store: hs.Store) -> tuple[object, ...]:
    """Return all that a user can see of a store."""
    records = {info.name: list(store.stream(info.name).read()) for info in store.streams()}
    return store.streams(), store.subscriptions(), records


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hs.Store]:
    with hs.open(tmp_path_factory.mktemp("shared") / "s") as store:
        store.create_stream("orders").append(b"first")
        store.create_subscription("s", stream="orders")
        yield store


@pytest.fixture
def unharmed(shared: hs.Store) -> Iterator[hs.Store]:
    """A store that must be after the test what it was before."""
    before = state_of(shared)
    yield shared
    assert state_of(shared) == before


def refused(
    call: Callable[[], object],
    error: type[BaseException] | tuple[type[BaseException], ...],
    match: str | None = None,
) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    if isinstance(caught.value, hs.HStreamError):
        assert caught.value.outcome == "none"


def reopened(store: hs.Store) -> hs.Store:
    store.close()
    return hs.open(store.path)


# Names.


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["stream", "subscription"])
def test_a_bad_name_is_refused_everywhere(unharmed: hs.Store, kind: str, name: str) -> None:
    store = unharmed
    calls: dict[str, list[Callable[[], object]]] = {
        "stream": [
            lambda: store.create_stream(name),
            lambda: store.stream(name),
            lambda: store.delete_stream(name),
            lambda: store.create_subscription("new", stream=name),
            lambda: store.transaction().append(name, b"x"),
            lambda: store.transaction().create_stream(name),
            lambda: store.transaction().delete_stream(name),
        ],
        "subscription": [
            lambda: store.create_subscription(name, stream="orders"),
            lambda: store.subscription(name),
            lambda: store.delete_subscription(name),
            lambda: store.create_stream("other", protect=[name]),
        ],
    }
    for call in calls[kind]:
        refused(call, ValueError, f"{kind} name must")


@pytest.mark.parametrize("name", NOT_STR)
def test_a_name_that_is_no_str_is_a_type_error(unharmed: hs.Store, name: Any) -> None:
    store = unharmed
    streams: tuple[Callable[[], object], ...] = (
        lambda: store.create_stream(name),
        lambda: store.stream(name),
        lambda: store.delete_stream(name),
        lambda: store.transaction().append(name, b"x"),
        lambda: store.transaction().create_stream(name),
        lambda: store.transaction().delete_stream(name),
    )
    for call in streams:
        refused(call, TypeError, f"stream name must be a str, not {type(name).__name__}")
    subscriptions: tuple[Callable[[], object], ...] = (
        lambda: store.create_subscription(name, stream="orders"),
        lambda: store.subscription(name),
        lambda: store.delete_subscription(name),
    )
    for call in subscriptions:
        refused(call, TypeError, f"subscription name must be a str, not {type(name).__name__}")


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_letters_and_digits_of_every_script_make_names(store: hs.Store, name: str) -> None:
    store.create_stream(name).append(b"x", key="k")
    store.create_subscription(name, stream=name)
    with reopened(store) as again:
        assert [info.name for info in again.streams()] == [name]
        assert [info.stream for info in again.subscriptions()] == [name]
        assert payloads(again.stream(name)) == [b"x"]


def test_what_does_not_exist_is_named(store: hs.Store, stream: hs.Stream) -> None:
    missing = store.stream("missing")
    for call in (
        lambda: missing.append(b"x"),
        lambda: missing.append_many([b"x"]),
        missing.read,
        missing.read_batches,
        missing.producer,
        missing.info,
        missing.tail,
        lambda: missing.trim(before=hs.LATEST),
        lambda: store.delete_stream("missing"),
        lambda: store.create_subscription("s", stream="missing"),
        lambda: store.transaction().append("missing", b"x"),
    ):
        with pytest.raises(hs.StreamNotFound, match="missing") as caught:
            call()
        assert caught.value.stream == "missing"
    nobody = store.subscription("nobody")
    uses: tuple[Callable[[], object], ...] = (
        lambda: nobody.consumer("c"),
        nobody.info,
        nobody.lag,
        lambda: store.delete_subscription("nobody"),
    )
    for use in uses:
        with pytest.raises(hs.SubscriptionNotFound, match="nobody"):
            use()


def test_what_exists_is_left_as_it_was(store: hs.Store, stream: hs.Stream) -> None:
    store.create_subscription("s", stream="orders", ack_timeout=5)
    store.create_stream("other")
    refused(lambda: store.create_stream("orders", backlog=3), hs.StreamExists, "orders")
    refused(lambda: store.create_subscription("s", stream="orders"), hs.SubscriptionExists, "s")
    store.create_stream("orders", backlog=3, exists_ok=True)
    store.create_subscription("s", stream="orders", ack_timeout=9, exists_ok=True)
    refused(
        lambda: store.create_subscription("s", stream="other", exists_ok=True),
        ValueError,
        "stream must be 'orders'.*not 'other'",
    )
    refused(lambda: store.create_stream("orders", backlog=-1, exists_ok=True), ValueError)
    assert stream.info().backlog == timedelta(0)
    assert store.subscription("s").info().ack_timeout == 5


def test_a_stream_or_subscription_in_use_stays(store: hs.Store, stream: hs.Stream) -> None:
    subscription = store.create_subscription("s", stream="orders")
    with pytest.raises(hs.StreamInUse) as in_use:
        store.delete_stream("orders")
    assert in_use.value.subscriptions == ("s",)
    with subscription.consumer("c") as consumer:
        with pytest.raises(hs.SubscriptionInUse) as attached:
            store.delete_subscription("s")
        assert attached.value.consumers == ("c",)
        with pytest.raises(hs.ConsumerExists) as taken:
            subscription.consumer("c")
        assert taken.value.consumer == "c"
        assert [d.payload for d in consumer.receive()] == [b"first"]
    assert payloads(stream) == [b"first"]


# Payloads, keys, attributes.


@pytest.mark.parametrize(("payload", "error", "match"), BAD_PAYLOADS)
def test_a_bad_payload_is_refused_everywhere(
    store: hs.Store,
    stream: hs.Stream,
    payload: Any,
    error: type[Exception],
    match: str,
) -> None:
    refused(lambda: stream.append(payload), error, match)
    refused(lambda: stream.append_many([b"good", payload]), error, match)
    refused(lambda: stream.append_many([b"good", payload], compression="zstd"), error, match)
    refused(lambda: hs.Record(payload), error, match)
    with pytest.raises(error, match=match), store.transaction() as tx:
        tx.append("orders", b"good")
        tx.append("orders", payload)
    with stream.producer(batch_age=60) as producer:
        before = producer.submit(b"before")
        refused(lambda: producer.submit(payload), error, match)
        after = producer.submit(b"after")
    assert before.result() < after.result()
    assert payloads(stream) == [b"first", b"before", b"after"]


@pytest.mark.parametrize("make", [lambda: nested(33), lambda: nested(100_000), endless])
def test_a_json_payload_nested_too_deep_is_refused(
    stream: hs.Stream, make: Callable[[], dict[str, Any]]
) -> None:
    refused(lambda: stream.append(make()), ValueError, "nested 32 deep")
    assert payloads(stream) == [b"first"]


@pytest.mark.parametrize("records", ["text", b"bytes", bytearray(b"x"), {"a": 1}, hs.Record(b"x")])
def test_append_many_refuses_a_single_record(stream: hs.Stream, records: Any) -> None:
    refused(lambda: stream.append_many(records), TypeError, "records must be an iterable")
    assert payloads(stream) == [b"first"]


@pytest.mark.parametrize("records", [None, 5, object()])
def test_append_many_refuses_what_is_no_iterable(stream: hs.Stream, records: Any) -> None:
    refused(lambda: stream.append_many(records), TypeError, "records must be an iterable")


def test_an_iterable_that_raises_appends_nothing(stream: hs.Stream) -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        raise LookupError("mine")

    refused(lambda: stream.append_many(broken()), LookupError, "mine")
    assert payloads(stream) == [b"first"]


def test_an_iterable_may_append_while_it_is_read(stream: hs.Stream) -> None:
    def busy() -> Iterator[bytes]:
        yield b"one"
        stream.append(b"inner")
        yield b"two"

    stream.append_many(busy())
    assert payloads(stream) == [b"first", b"inner", b"one", b"two"]


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        (5, TypeError, "key must be a str or None, not int"),
        (b"k", TypeError, "not bytes"),
        (True, TypeError, "not bool"),
        (["k"], TypeError, "not list"),
        ("\ud800", ValueError, "key must be text that UTF-8 can hold"),
        ("k" * 65_537, ValueError, "key may take 65536 bytes in UTF-8, and this one takes 65537"),
    ],
)
def test_a_bad_key_is_refused(
    store: hs.Store, stream: hs.Stream, key: Any, error: type[Exception], match: str
) -> None:
    refused(lambda: stream.append(b"x", key=key), error, match)
    refused(lambda: stream.append_many([b"x"], key=key), error, match)
    refused(lambda: stream.producer().submit(b"x", key=key), error, match)
    refused(lambda: store.transaction().append("orders", b"x", key=key), error, match)
    if not isinstance(key, str) or len(key) == 1:
        refused(lambda: stream.read(key=key), error, match)
    assert payloads(stream) == [b"first"]


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        (5, TypeError),
        ("text", TypeError),
        ([("a", "b")], TypeError),
        ({"a": 1}, TypeError),
        ({1: "a"}, TypeError),
        ({"a": None}, TypeError),
        ({"\ud800": "a"}, ValueError),
        ({"a": "\ud800"}, ValueError),
        ({"a": "x" * 2 * MIB}, hs.RecordTooLarge),
    ],
)
def test_bad_attributes_are_refused(
    stream: hs.Stream, attributes: Any, error: type[Exception]
) -> None:
    refused(lambda: stream.append(b"x", attributes=attributes), error)
    refused(lambda: stream.producer().submit(b"x", attributes=attributes), error)
    assert payloads(stream) == [b"first"]


def test_a_record_brings_its_own_key_and_attributes(stream: hs.Stream) -> None:
    record = hs.Record(b"x", key="a")
    refused(lambda: stream.append(record, key="b"), TypeError, "brings its own")
    refused(lambda: stream.append(record, attributes={"a": "b"}), TypeError, "brings its own")
    assert payloads(stream) == [b"first"]


def test_a_changed_buffer_does_not_change_what_was_submitted(stream: hs.Stream) -> None:
    buffer, document = bytearray(b"before"), {"a": [1]}
    with stream.producer(batch_age=60) as producer:
        producer.submit(buffer)
        producer.submit(document)
        buffer[:] = b"after!"
        document["a"].append(2)
    assert payloads(stream) == [b"first", b"before", {"a": [1]}]


class Loud(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise LookupError("compared")

    def __hash__(self) -> int:
        raise LookupError("hashed")


def test_subclasses_are_stored_as_what_they_hold(stream: hs.Stream) -> None:
    class Text(str):
        __slots__ = ()

    class Data(bytes):
        __slots__ = ()

    class Document(dict[str, Any]):
        __slots__ = ()

        def items(self) -> Any:
            raise LookupError("asked")

    stream.append(Data(b"data"), key=Text("k"))
    stream.append(Document(a=Text("b")))
    stream.append(b"loud", key=Loud("k"))
    found = list(stream.read())[1:]
    assert [record.payload for record in found] == [b"data", {"a": "b"}, b"loud"]
    assert [type(record.payload) for record in found] == [bytes, dict, bytes]
    assert [(type(record.key), record.key) for record in found[::2]] == [(str, "k")] * 2


# Sizes.


def test_records_and_batches_over_the_limit_append_nothing(tmp_path: Path) -> None:
    config = hs.StoreConfig(batch_bytes_max=64 << 10, transaction_bytes_max=128 << 10)
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("orders")
        stream.append(b"first")
        large, half = bytes(64 << 10), bytes(50 << 10)
        for call in (
            lambda: stream.append(large),
            lambda: stream.append({"a": "x" * (64 << 10)}),
            lambda: stream.append_many([b"good", large]),
            lambda: stream.producer().submit(large),
        ):
            with pytest.raises(hs.RecordTooLarge) as record:
                call()
            assert record.value.limit == 64 << 10 < record.value.size
            assert not record.value.retryable
        with pytest.raises(hs.BatchTooLarge) as batch:
            stream.append_many([half] * 3)
        assert batch.value.limit == 128 << 10 < batch.value.size
        with pytest.raises(hs.TransactionTooLarge) as transaction, store.transaction() as tx:
            for _ in range(3):
                tx.append("orders", half)
        assert transaction.value.limit == 128 << 10 < transaction.value.size
        assert payloads(stream) == [b"first"]
        stream.append(bytes((64 << 10) - 32))
        stream.append_many([half] * 2)
    with hs.open(tmp_path / "s", config=config) as store:
        assert [len(r.payload) for r in store.stream("orders").read()] == [
            5,
            (64 << 10) - 32,
            50 << 10,
            50 << 10,
        ]


@pytest.mark.parametrize(
    "item",
    [bytes(1000), bytearray(1000), {str(n): n for n in range(100)}, hs.Record(bytes(1000)), b""],
    ids=["bytes", "bytearray", "dict", "record", "empty"],
)
def test_an_iterator_without_end_is_refused(tmp_path: Path, item: Any) -> None:
    config = hs.StoreConfig(batch_bytes_max=64 << 10, transaction_bytes_max=128 << 10)
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("orders")
        with pytest.raises(hs.BatchTooLarge) as caught:
            stream.append_many(item for _ in count())
        assert caught.value.limit == 128 << 10 < caught.value.size
        assert len(stream.append_many(b"%d" % n for n in range(1000))) == 1000
        assert payloads(stream) == [b"%d" % n for n in range(1000)]


# Numbers and choices.

OPTIONS: dict[str, tuple[Callable[[hs.Store, Any], object], list[Any]]] = {
    "backlog": (
        lambda store, v: store.create_stream("new", backlog=v),
        [-1, NAN, INF, 2**33, True, "5", None, timedelta(-1)],
    ),
    "max_bytes": (
        lambda store, v: store.create_stream("new", max_bytes=v),
        [-1, NAN, 1.5, 1 << 70, True, "5", None],
    ),
    "protect": (
        lambda store, v: store.create_stream("new", protect=v),
        ["abc", 5, None],
    ),
    "ack_timeout": (
        lambda store, v: store.create_subscription("new", stream="orders", ack_timeout=v),
        [-1, 0, NAN, INF, 86_401, True, "5", None, timedelta(0)],
    ),
    "max_unacked": (
        lambda store, v: store.create_subscription("new", stream="orders", max_unacked=v),
        [-1, 0, NAN, 1.5, 1 << 70, True, "5", None],
    ),
    "mode": (
        lambda store, v: store.create_subscription("new", stream="orders", mode=v),
        ["", "fair", None, 5],
    ),
    "start": (
        lambda store, v: store.create_subscription("new", stream="orders", start=v),
        [None, 5, "1-1-0", NAN, date(2026, 1, 1)],
    ),
    "limit": (
        lambda store, v: store.stream("orders").read(limit=v),
        [-1, NAN, 1.5, 1 << 70, True, "5"],
    ),
    "shard": (
        lambda store, v: store.stream("orders").read(shard=v),
        [-1, 0, 99, NAN, 1 << 70, True, "5"],
    ),
    "until": (
        lambda store, v: store.stream("orders").read(until=v),
        [5, "1-1-0", NAN],
    ),
    "before": (
        lambda store, v: store.stream("orders").trim(before=v),
        [None, 5, "1-1-0"],
    ),
    "batch_records": (
        lambda store, v: store.stream("orders").producer(batch_records=v),
        [-1, 0, NAN, 1 << 70, True, "5", None],
    ),
    "batch_bytes": (
        lambda store, v: store.stream("orders").producer(batch_bytes=v),
        [-1, 0, NAN, 1 << 70, True, "5", None],
    ),
    "batch_age": (
        lambda store, v: store.stream("orders").producer(batch_age=v),
        [-1, NAN, INF, 3601, True, "5", None],
    ),
    "buffer_bytes": (
        lambda store, v: store.stream("orders").producer(buffer_bytes=v),
        [-1, 0, NAN, 1 << 70, True, "5", None],
    ),
    "on_full": (
        lambda store, v: store.stream("orders").producer(on_full=v),
        ["", "drop", None, 5],
    ),
    "name": (
        lambda store, v: store.stream("orders").producer(name=v),
        ["", "p" * 256, 5, b"p"],
    ),
    "durability": (
        lambda store, v: store.stream("orders").append(b"x", durability=v),
        ["", "disk", 2, True, []],
    ),
    "compression": (
        lambda store, v: store.stream("orders").append_many([b"x"], compression=v),
        ["", "lz4", 2, None, []],
    ),
    "consumer name": (
        lambda store, v: store.subscription("s").consumer(v),
        ["", 5, None, b"c"],
    ),
    "prefetch": (
        lambda store, v: store.subscription("s").consumer("c", prefetch=v),
        [-1, 0, NAN, 1 << 70, True, "5", None],
    ),
}


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, (_, values) in OPTIONS.items() for value in values],
)
def test_a_bad_option_is_refused_by_name(unharmed: hs.Store, option: str, value: Any) -> None:
    call, _ = OPTIONS[option]
    refused(lambda: call(unharmed, value), (TypeError, ValueError), f"^{option} ")


@pytest.mark.parametrize(
    ("option", "call", "values"),
    [
        (
            "max_records",
            lambda c, d, v: c.receive(v, timeout=0),
            [-1, 0, NAN, 1.5, 1 << 70, True, "5", None],
        ),
        ("timeout", lambda c, d, v: c.receive(timeout=v), [-1, NAN, INF, 1 << 70, True, "5"]),
        ("after", lambda c, d, v: c.release(d, after=v), [-1, NAN, INF, 1 << 70, True, "5"]),
        ("after", lambda c, d, v: d[0].release(after=v), [-1, NAN, INF, 1 << 70, True, "5"]),
        ("by", lambda c, d, v: c.extend(d, by=v), [-1, 0, NAN, INF, 1 << 70, True, "5", None]),
        ("by", lambda c, d, v: d[0].extend(by=v), [-1, 0, NAN, INF, 1 << 70, True, "5", None]),
    ],
)
def test_a_bad_number_for_a_consumer_moves_nothing(
    store: hs.Store,
    stream: hs.Stream,
    option: str,
    call: Callable[[hs.Consumer, hs.DeliveryBatch, Any], object],
    values: list[Any],
) -> None:
    subscription = store.create_subscription("s", stream="orders")
    stream.append(b"second")
    with subscription.consumer("c") as consumer:
        held = consumer.receive(1)
        for value in values:
            with pytest.raises((TypeError, ValueError), match=f"^{option} must"):
                call(consumer, held, value)
        assert subscription.info().unacked == 1
        assert consumer.ack(held).new == 1
        assert [d.payload for d in consumer.receive()] == [b"second"]


@pytest.mark.parametrize("value", [-1, NAN, INF, 1 << 70, True, "5", None, []])
def test_no_setting_takes_an_absurd_value(value: Any) -> None:
    for field in fields(hs.StoreConfig):
        if value is True and isinstance(field.default, bool):
            continue
        with pytest.raises((TypeError, ValueError), match=f"^{field.name} must"):
            hs.StoreConfig(**{field.name: value})


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("segment_bytes_max", "segment_bytes_min"),
        ("eager_bytes", "half of frame_bytes"),
        ("transaction_bytes_max", "batch_bytes_max"),
        ("stage_bytes", "four times chunk_bytes"),
    ],
)
def test_a_setting_that_another_one_limits_says_so(name: str, bound: str) -> None:
    beyond: dict[str, Any] = {name: 1 << 40}
    for setting in beyond, {name: 1}:
        with pytest.raises(ValueError, match=rf"^{name} must be .* \({bound} is a limit\)$"):
            hs.StoreConfig(**setting)


def test_a_tail_holds_a_frame_or_is_none() -> None:
    for size in 0, 4096:
        hs.StoreConfig(tail_bytes=size)
    for size in 1, 4095:
        with pytest.raises(ValueError, match=r"^tail_bytes must be 0, or from 4096 to"):
            hs.StoreConfig(tail_bytes=size)


def test_settings_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"config": 5},
        {"config": {}},
        {"durability": "disk"},
        {"durability": 5},
    ]
    for arguments in wrong:
        refused(partial(hs.open, tmp_path / "s", **arguments), (TypeError, ValueError))
    assert list(tmp_path.iterdir()) == []


# Places.


def test_a_naive_time_is_refused(stream: hs.Stream) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the point of the test
    refused(lambda: stream.read(start=naive), ValueError, "start must be an aware datetime")
    refused(lambda: stream.read(until=naive), ValueError, "until must be an aware datetime")
    refused(lambda: stream.trim(before=naive), ValueError, "before must be an aware datetime")
    assert payloads(stream) == [b"first"]


def test_the_tail_of_an_empty_stream_is_no_place(store: hs.Store) -> None:
    empty = store.create_stream("empty")
    tail: Any = empty.tail()
    assert tail is None
    refused(lambda: empty.read(start=tail), TypeError, "not NoneType: tail")


def test_every_aware_time_is_a_place(stream: hs.Stream) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert len(list(stream.read(start=first))) == 1
    assert list(stream.read(start=last)) == []
    assert list(stream.read(until=first)) == []
    stream.trim(before=first)
    assert payloads(stream) == [b"first"]


def test_ids_of_other_streams_and_beyond_the_end_are_refused(
    store: hs.Store, stream: hs.Stream
) -> None:
    foreign = store.create_stream("other").append(b"x")
    shard = stream.append(b"second").shard_id
    for place, match in (
        (foreign, "is not an id of stream 'orders'"),
        (hs.RecordId(2**64 - 1, 2**64 - 1, 0), "is not an id of stream"),
        (hs.RecordId(shard, 4, 0), "lies behind the end"),
        (hs.RecordId(shard, 1, 10**6), "lies behind the end"),
        (hs.RecordId(shard, 2**64 - 1, 0), "lies behind the end"),
    ):
        refused(partial(stream.read, start=place), ValueError, match)
        refused(partial(stream.read, until=place), ValueError, match)
        refused(partial(stream.trim, before=place), ValueError, match)
        refused(
            partial(store.create_subscription, "s", stream="orders", start=place),
            ValueError,
            match,
        )
    assert payloads(stream) == [b"first", b"second"]
    assert store.subscriptions() == []


def test_a_trimmed_id_tells_what_is_kept(store: hs.Store, stream: hs.Stream) -> None:
    gone = next(iter(stream.read())).id
    kept = stream.append(b"second")
    stream.trim(before=kept)
    assert gone is not None
    for call in (
        lambda: stream.read(start=gone),
        lambda: stream.read(until=gone),
        lambda: store.create_subscription("s", stream="orders", start=gone),
    ):
        with pytest.raises(hs.RecordTrimmed) as caught:
            call()
        assert str(gone) in str(caught.value)
    stream.trim(before=gone)
    assert payloads(stream) == [b"second"]


@pytest.mark.parametrize("value", ["yes", 1, None, []])
def test_a_switch_is_a_bool(store: hs.Store, stream: hs.Stream, value: Any) -> None:
    subscription = store.create_subscription("s", stream="orders")
    assert subscription.name == "s"
    before = store.streams(), store.subscriptions()
    calls: dict[str, list[Callable[[], object]]] = {
        "follow": [
            lambda: stream.read(follow=value),
            lambda: stream.read_batches(follow=value),
        ],
        "exists_ok": [
            lambda: store.create_stream("orders", exists_ok=value),
            lambda: store.create_stream("new", exists_ok=value),
            lambda: store.create_subscription("s", stream="orders", exists_ok=value),
        ],
        "force": [
            lambda: store.delete_stream("orders", force=value),
            lambda: store.delete_subscription("s", force=value),
        ],
    }
    for name, wrong in calls.items():
        for call in wrong:
            with pytest.raises(TypeError, match=f"^{name} must be a bool, not "):
                call()
    assert (store.streams(), store.subscriptions()) == before


@pytest.mark.parametrize("parts", [(True, 1, 0), (1, True, 0), (1, 1, False)])
def test_a_bool_is_no_part_of_an_id(parts: tuple[Any, Any, Any]) -> None:
    with pytest.raises(TypeError, match="must be an int, not bool"):
        hs.RecordId(*parts)


@pytest.mark.parametrize("value", [5, "", 0, object])
def test_what_is_no_environment_is_a_type_error(tmp_path: Path, value: Any) -> None:
    for opened in (hs.open, hs.aio.open):
        with pytest.raises(TypeError, match="env must be an Env or None"):
            opened(tmp_path / "new", env=value)
    assert list(tmp_path.iterdir()) == []


def test_follow_and_until_exclude_each_other(stream: hs.Stream) -> None:
    refused(lambda: stream.read(follow=True, until=hs.LATEST), ValueError, "exclude")


def test_a_reader_of_a_deleted_stream_ends_with_stream_not_found(store: hs.Store) -> None:
    stream = store.create_stream("orders")
    stream.append_many([b"x"] * 10_000)
    begun, fresh, following = stream.read(), stream.read(), stream.read(follow=True)
    assert next(begun).payload == b"x"
    assert sum(1 for _ in zip(range(10_000), following, strict=False)) == 10_000
    store.delete_stream("orders")
    store.create_stream("orders").append(b"of another stream")
    for reader in (begun, fresh, following):
        with pytest.raises(hs.StreamNotFound):
            for record in reader:
                assert record.payload == b"x"


# Acks.


def test_acking_what_was_never_delivered_changes_nothing(
    store: hs.Store, stream: hs.Stream
) -> None:
    foreign = store.create_stream("other").append(b"x")
    stream.append(b"second")
    subscription = store.create_subscription("s", stream="orders")
    with subscription.consumer("c") as consumer:
        held = consumer.receive(1)
        shard = held[0].id.shard_id
        for unknown in (foreign, hs.RecordId(shard, 2, 0), hs.RecordId(shard, 10**9, 0)):
            with pytest.raises(hs.UnknownRecord) as caught:
                consumer.ack(unknown)
            assert f"{unknown.shard_id}-{unknown.lsn}" in str(caught.value)
            assert caught.value.subscription == "s"
        refused(lambda: consumer.release(foreign), hs.UnknownRecord)
        refused(lambda: consumer.extend(foreign, by=1), hs.UnknownRecord)
        assert subscription.info().unacked == 1


@pytest.mark.parametrize("deliveries", [None, 5, "x", b"x", {}, {"a": 1}, [1], [None], object()])
def test_what_is_no_delivery_is_a_type_error(
    store: hs.Store, stream: hs.Stream, deliveries: Any
) -> None:
    subscription = store.create_subscription("s", stream="orders")
    with subscription.consumer("c") as consumer:
        consumer.receive()
        refused(lambda: consumer.ack(deliveries), TypeError, "deliveries must")
        refused(lambda: consumer.release(deliveries), TypeError, "deliveries must")
        refused(lambda: consumer.extend(deliveries, by=1), TypeError, "deliveries must")
        if deliveries != {}:
            with pytest.raises(TypeError, match="deliveries must"), store.transaction() as tx:
                tx.append("orders", b"with it")
                tx.ack(deliveries)
        assert subscription.info().unacked == 1
    assert payloads(stream) == [b"first"]


def test_a_second_ack_is_counted_and_no_error(store: hs.Store, stream: hs.Stream) -> None:
    with store.create_subscription("s", stream="orders").consumer("c") as consumer:
        batch = consumer.receive()
        assert consumer.ack(batch) == hs.AckResult(1, 0, 0)
        assert consumer.ack(batch) == hs.AckResult(0, 1, 0)
        assert consumer.ack(batch[0].id) == hs.AckResult(0, 1, 0)
        batch[0].ack()
        assert consumer.ack([]) == hs.AckResult(0, 0, 0)
        assert consumer.release(batch) == 0
        assert consumer.extend(batch, by=1) == 0


def test_a_transaction_acks_only_what_is_held(store: hs.Store, stream: hs.Stream) -> None:
    with store.create_subscription("s", stream="orders").consumer("c") as consumer:
        batch = consumer.receive()
        consumer.release(batch)
        with pytest.raises(hs.LeaseLost), store.transaction() as tx:
            tx.append("orders", b"with it")
            tx.ack(batch)
    assert payloads(stream) == [b"first"]


# Transactions that contradict themselves.


def test_deleting_a_stream_twice_in_a_transaction_does_nothing(store: hs.Store) -> None:
    store.create_stream("orders").append(b"kept")
    with pytest.raises(hs.StreamNotFound), store.transaction() as tx:
        tx.delete_stream("orders")
        tx.delete_stream("orders")
    with reopened(store) as again:
        assert payloads(again.stream("orders")) == [b"kept"]


def test_a_transaction_sees_its_own_changes_in_order(store: hs.Store, stream: hs.Stream) -> None:
    def appends_behind_the_deletion(tx: hs.Transaction) -> None:
        tx.delete_stream("orders")
        tx.append("orders", b"lost")

    def deletes_what_it_creates(tx: hs.Transaction) -> None:
        tx.create_stream("new")
        tx.delete_stream("new")

    def creates_what_it_deletes(tx: hs.Transaction) -> None:
        tx.delete_stream("orders")
        tx.create_stream("orders")

    def creates_twice(tx: hs.Transaction) -> None:
        tx.create_stream("new")
        tx.create_stream("new")

    for body, error in (
        (appends_behind_the_deletion, hs.StreamNotFound),
        (deletes_what_it_creates, ValueError),
        (creates_what_it_deletes, hs.StreamExists),
        (creates_twice, hs.StreamExists),
    ):
        with pytest.raises(error), store.transaction() as tx:
            tx.append("orders", b"with it")
            body(tx)
    assert payloads(stream) == [b"first"]
    with reopened(store) as again:
        assert [info.name for info in again.streams()] == ["orders"]


def test_an_ended_transaction_takes_nothing(store: hs.Store, stream: hs.Stream) -> None:
    with store.transaction() as tx:
        tx.append("orders", b"second")
    for call in (
        lambda: tx.append("orders", b"x"),
        lambda: tx.append_many("orders", [b"x"]),
        lambda: tx.create_stream("new"),
        lambda: tx.delete_stream("orders"),
        tx.commit,
        tx.__enter__,
    ):
        refused(call, ValueError, "has ended")
    with pytest.raises(LookupError), store.transaction() as abandoned:
        abandoned.append("orders", b"never")
        raise LookupError
    refused(abandoned.commit, ValueError, "has ended")
    assert payloads(stream) == [b"first", b"second"]


# After the end.


def test_everything_of_a_closed_store_says_so(store: hs.Store, stream: hs.Stream) -> None:
    subscription = store.create_subscription("s", stream="orders")
    stream.append(b"second")
    consumer, reader, tx = subscription.consumer("c"), stream.read(), store.transaction()
    batch = consumer.receive(1)
    producer = stream.producer()
    submitted = producer.submit(b"third")
    tx.append("orders", b"never")
    store.close()
    for call in (
        lambda: stream.append(b"x"),
        lambda: stream.append_many([b"x"]),
        stream.read,
        stream.read_batches,
        stream.producer,
        stream.info,
        stream.tail,
        lambda: stream.trim(before=hs.LATEST),
        lambda: next(reader),
        lambda: list(reader),
        lambda: producer.submit(b"x"),
        consumer.receive,
        lambda: list(consumer),
        lambda: consumer.ack(batch),
        lambda: consumer.release(batch),
        lambda: consumer.extend(batch, by=1),
        consumer.gaps,
        batch[0].ack,
        batch[0].release,
        lambda: batch[0].extend(by=1),
        lambda: tx.append("orders", b"x"),
        tx.commit,
        lambda: subscription.consumer("d"),
        subscription.info,
        subscription.lag,
        store.streams,
        store.subscriptions,
        store.stats,
        store.sync,
        store.tick,
        store.__enter__,
        lambda: store.create_stream("new"),
        lambda: store.create_stream("orders", exists_ok=True),
        lambda: store.delete_stream("orders"),
        lambda: store.create_subscription("new", stream="orders"),
        lambda: store.delete_subscription("s"),
    ):
        refused(call, hs.StoreClosed, "closed")
    for ends in (reader.close, consumer.close, producer.close, store.close):
        ends()
    assert submitted.done()
    assert submitted.result().lsn == 3
    with hs.open(store.path) as again:
        assert payloads(again.stream("orders")) == [b"first", b"second", b"third"]
        with again.subscription("s").consumer("c") as consumer:
            assert [d.attempt for d in consumer.receive()] == [2, 1, 1]


def test_what_is_closed_in_an_open_store_says_so(store: hs.Store, stream: hs.Stream) -> None:
    stream.append(b"second")
    subscription = store.create_subscription("s", stream="orders")
    consumer, producer, reader = subscription.consumer("c"), stream.producer(), stream.read()
    batch = consumer.receive(1)
    next(reader)
    for ends in (consumer.close, producer.close, reader.close) * 2:
        ends()
    for call in (
        consumer.receive,
        consumer.gaps,
        lambda: consumer.ack(batch),
        lambda: consumer.release(batch),
        lambda: consumer.extend(batch, by=1),
        batch[0].ack,
        batch[0].release,
    ):
        refused(call, hs.ConsumerClosed, "'c'")
    refused(lambda: producer.submit(b"x"), hs.ProducerClosed, "orders")
    refused(lambda: next(reader), StopIteration)
    assert list(reader) == []
    assert list(consumer) == []
    with subscription.consumer("c") as again:
        assert [d.payload for d in again.receive()] == [b"first", b"second"]


def test_a_producer_behind_another_of_its_name_says_so(stream: hs.Stream) -> None:
    first, second = stream.producer(name="importer"), stream.producer(name="importer")
    first.submit(b"a")
    first.flush()
    lost = second.submit(b"b")
    refused(lost.result, hs.ProducerClosed, "lost its name to another producer")
    refused(second.close, hs.ProducerClosed, "lost its name to another producer")
    first.close()


def test_a_consumer_of_a_deleted_subscription_says_so(store: hs.Store, stream: hs.Stream) -> None:
    consumer = store.create_subscription("s", stream="orders").consumer("c")
    batch = consumer.receive()
    store.delete_subscription("s", force=True)
    for call in (
        consumer.receive,
        lambda: next(iter(consumer)),
        lambda: consumer.ack(batch),
        batch[0].ack,
        consumer.gaps,
    ):
        refused(call, hs.SubscriptionNotFound, "'s'")
    consumer.close()


# Paths.


def test_a_path_that_names_no_directory_is_refused(tmp_path: Path) -> None:
    refused(lambda: hs.open(""), ValueError, "path must name a directory")
    refused(lambda: hs.open("a\0b"), ValueError, "path must name a directory")
    refused(lambda: hs.open("\ud800"), ValueError, "path must name a directory")
    refused(lambda: hs.open(f"/{'x/' * 600}"), ValueError, "1023 bytes")
    refused(lambda: hs.open(None), TypeError, "path must be a str, bytes or PathLike")
    refused(lambda: hs.open(5), TypeError, "path must be a str, bytes or PathLike, not int")
    with pytest.raises(FileNotFoundError, match="make it first") as caught:
        hs.open(tmp_path / "no" / "parent")
    assert caught.value.filename == str(tmp_path / "no")
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    file, full = tmp_path / "file", tmp_path / "full"
    file.write_bytes(b"mine")
    full.mkdir()
    (full / "report.txt").write_bytes(b"mine")
    refused(lambda: hs.open(file), hs.NotAStore, "it is a file")
    refused(lambda: hs.open(full), hs.NotAStore, "it holds other files")
    refused(lambda: hs.open(tmp_path / "absent", create=False), hs.NotAStore, "does not exist")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(lambda: hs.open(empty, create=False), hs.NotAStore, "is an empty directory")
    (empty / "segments").mkdir()
    refused(lambda: hs.open(empty, create=False), hs.NotAStore, "holds no superblock")
    (empty / "segments").rmdir()
    assert sorted(tmp_path.rglob("*")) == [empty, file, full, full / "report.txt"]
    assert file.read_bytes() == (full / "report.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("made", [False, True])
def test_every_way_to_write_a_path_opens_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, made: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if made:
        (tmp_path / "s").mkdir()
    (tmp_path / "link").symlink_to("s")
    ways = [Path("s"), "s", "./s//", "s/.", str(tmp_path / "s"), bytes(tmp_path / "s"), "link"]
    for number, path in enumerate(ways):
        with hs.open(path) as store:
            stream = store.create_stream("orders", exists_ok=True)
            stream.append(b"%d" % number)
    with hs.open(tmp_path / "s") as store:
        assert payloads(store.stream("orders")) == [b"%d" % n for n in range(len(ways))]
    odd = os.fsencode(tmp_path) + b"/not utf-8 \xff"
    (tmp_path / "s").rename(os.fsdecode(odd))
    with hs.open(odd) as store:
        assert len(payloads(store.stream("orders"))) == len(ways)


def test_a_store_stays_where_it_is_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with hs.open("s", config=hs.StoreConfig(segment_bytes_min=64 << 10)) as store:
        stream = store.create_stream("orders")
        monkeypatch.chdir(tmp_path / "elsewhere")
        for _ in range(20):
            stream.append_many([bytes(10_000)] * 5)
        assert len(payloads(stream)) == 100
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with hs.open(tmp_path / "s") as store:
        assert len(payloads(store.stream("orders"))) == 100


def test_an_open_store_is_locked_and_names_its_owner(store: hs.Store, stream: hs.Stream) -> None:
    with pytest.raises(hs.StoreLocked) as here:
        hs.open(store.path)
    assert here.value.owner_pid == os.getpid()
    assert here.value.retryable
    assert "use the store that is open here, or close it" in str(here.value)
    assert "server" not in str(here.value)
    script = (
        "import sys, hstreamlite as hs\n"
        "try: hs.open(sys.argv[1])\n"
        "except hs.StoreLocked as error: print(error.owner_pid, 'server' in str(error))\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", script, store.path],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == [str(os.getpid()), "True"]
    stream.append(b"second")
    assert payloads(stream) == [b"first", b"second"]


def run_as_nobody(path: Path) -> str:
    """Open a store in a process without rights; return what it says."""
    script = (
        "import os, sys, hstreamlite as hs\n"
        "import hstreamlite.store\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: hs.open(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "else: print('opened')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def digests(path: Path) -> dict[str, str]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_was_moved_while_open_leaves_what_lies_in_its_place_alone(
    tmp_path: Path,
    replaced: bool,
) -> None:
    """What was acknowledged is where the directory went."""
    path, moved = tmp_path / "s", tmp_path / "moved"
    config = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=64 << 10)
    store = hs.open(path, config=config)
    stream = store.create_stream("a")
    acknowledged = list(stream.append_many([b"." * 1000] * 40))
    path.rename(moved)
    if replaced:
        with hs.open(path, config=config) as other:
            other.create_stream("b").append_many([b"." * 1000] * 200)
    before = digests(path)
    with pytest.raises((hs.StoreReplaced, hs.StoreFailed)):
        while True:
            acknowledged += stream.append_many([b"." * 1000] * 10)
    with pytest.raises(hs.StoreFailed, match=r"find the lock in .*: Stale file handle"):
        store.close()
    assert digests(path) == before
    with hs.open(moved) as again:
        assert [record.id for record in again.stream("a").read()] == acknowledged


def test_a_store_that_was_moved_while_open_removes_nothing_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "s"
    config = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=64 << 10)
    store = hs.open(path, config=config)
    stream = store.create_stream("a")
    for _ in range(4):
        stream.append_many([b"." * 1000] * 50)
    path.rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", path)
    before = digests(path)
    with pytest.raises((hs.StoreReplaced, hs.StoreFailed)):
        stream.trim(before=hs.LATEST)
    assert digests(path) == before
    with pytest.raises(hs.StoreFailed, match="find the lock"):
        store.close()


def test_a_lock_that_names_nobody_is_no_lock_of_another(tmp_path: Path) -> None:
    config = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=64 << 10)
    with hs.open(tmp_path / "s", config=config) as store:
        (tmp_path / "s/LOCK").write_bytes(b"")
        store.create_stream("a").append_many([b"." * 1000] * 200)
        assert store.stats().log["segments_rolled"] > 1


def test_a_directory_without_permission_is_an_os_error(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        store.create_stream("orders").append(b"kept")
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/") and "pytest" in str(parent):
            parent.chmod(0o755)
    (tmp_path / "s").chmod(0o555)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    readonly = tmp_path / "readonly"
    readonly.mkdir(mode=0o555)
    for path in (tmp_path / "s", closed, readonly, readonly / "new"):
        said = run_as_nobody(path)
        assert said.startswith("PermissionError"), said
        assert str(path) in said
    for path in (closed, readonly, tmp_path / "s"):
        path.chmod(0o755)
    assert list(readonly.iterdir()) == []
    with hs.open(tmp_path / "s") as store:
        assert payloads(store.stream("orders")) == [b"kept"]


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def damage(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Copy a store with another SUPER."""
    copy = path.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    super_file = copy / "SUPER"
    super_file.write_bytes(change(super_file.read_bytes()))
    return copy


def test_a_damaged_superblock_is_named_and_left_alone(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        store.create_stream("orders").append(b"kept")
    for change in (
        lambda _: b"",
        lambda b: b[:100],
        lambda b: bytes(len(b)),
        lambda b: b[:4000],
        lambda b: b"x" * len(b),
    ):
        copy = damage(tmp_path / "s", change)
        before = files_of(copy)
        for read_only in (False, True):
            with pytest.raises(hs.CorruptionError) as caught:
                hs.open(copy, read_only=read_only)
            assert caught.value.path == str(copy / "SUPER")
        assert files_of(copy) == before
    for keep in (lambda b: b[:4096] + bytes(4096), lambda b: b[:5000]):
        with hs.open(damage(tmp_path / "s", keep)) as store:
            assert payloads(store.stream("orders")) == [b"kept"]


def test_a_missing_superblock_is_named_and_not_replaced(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        store.create_stream("orders").append(b"kept")
    saved = (tmp_path / "s" / "SUPER").read_bytes()
    (tmp_path / "s" / "SUPER").unlink()
    before = files_of(tmp_path / "s")
    for _ in range(2):
        for options in ({}, {"read_only": True}, {"create": False}):
            with pytest.raises(hs.CorruptionError, match="no such file, beside"):
                hs.open(tmp_path / "s", **options)  # type: ignore[arg-type]
    assert files_of(tmp_path / "s") == before
    (tmp_path / "s" / "SUPER").write_bytes(saved)
    with hs.open(tmp_path / "s") as store:
        assert payloads(store.stream("orders")) == [b"kept"]


def of_version(major: int, required: int) -> Callable[[bytes], bytes]:
    """Return what makes both slots of a superblock those of another format."""

    def change(content: bytes) -> bytes:
        slots = bytearray(content)
        for at in (0, 4096):
            slots[at + 12 : at + 14] = major.to_bytes(2, "little")
            slots[at + 16 : at + 20] = required.to_bytes(4, "little")
            crc = lib.hsl_crc32c(0, bytes(slots[at + 12 : at + 4096]), 4096 - 12)
            slots[at + 8 : at + 12] = crc.to_bytes(4, "little")
        return bytes(slots)

    return change


@pytest.mark.parametrize(("major", "required"), [(2, 0), (65_535, 0), (1, 1)])
def test_a_newer_format_is_named_and_left_alone(tmp_path: Path, major: int, required: int) -> None:
    with hs.open(tmp_path / "s") as store:
        store.create_stream("orders").append(b"kept")
    copy = damage(tmp_path / "s", of_version(major, required))
    before = files_of(copy)
    for read_only in (False, True):
        with pytest.raises(hs.StoreVersionUnsupported) as caught:
            hs.open(copy, read_only=read_only)
        assert (caught.value.found, caught.value.supported) == (major, 1)
    assert files_of(copy) == before
