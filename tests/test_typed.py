"""Payloads of dataclasses and structs: what goes in comes out, and what does not fit is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict, abc, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, NewType

import msgspec
import pytest
from hypothesis import given, strategies as st

import hstreamlite as hs

Euros = NewType("Euros", float)


class Colour(Enum):
    RED = "red"
    GREEN = 2


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Item:
    name: str
    qty: int = 1
    price: Euros = Euros(0.0)


@dataclass(kw_only=True)
class Order:
    """Everything that a payload may be made of."""

    items: list[Item]
    placed: datetime
    customer: str | None = None
    due: date | None = None
    at: time = time(12)
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    state: Literal["open", "paid", 3] = "open"
    size: tuple[int, float] = (0, 0.0)
    tags: frozenset[str] = frozenset()
    notes: dict[str, list[Item] | int | None] = field(default_factory=dict)
    either: int | str | Item | None = None
    anything: Any = None
    back: Order | None = None
    flag: Annotated[bool, "documented"] = False
    total: float = field(init=False, default=0.0)


class Line(msgspec.Struct, frozen=True):
    item: Item
    when: datetime
    count: int = 0


class Sheet(msgspec.Struct):
    lines: list[Line]
    title: str | None = None


@dataclass
class Folder:
    sheet: Sheet
    name: str


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
integers = st.integers(-(2**53), 2**53)
floats = st.floats(allow_nan=False, allow_infinity=False)
items = st.builds(Item, texts, integers, floats.map(Euros))
times = st.datetimes(timezones=st.none() | st.just(UTC))
plain = st.none() | st.booleans() | integers | floats | texts
orders = st.recursive(
    st.none(),
    lambda back: st.builds(
        Order,
        items=st.lists(items, max_size=3),
        placed=times,
        customer=st.none() | texts,
        due=st.none() | st.dates(),
        at=st.times(),
        colour=st.sampled_from(Colour),
        level=st.sampled_from(Level),
        state=st.sampled_from(["open", "paid", 3]),
        size=st.tuples(integers, floats),
        tags=st.frozensets(texts, max_size=3),
        notes=st.dictionaries(
            texts, st.none() | integers | st.lists(items, min_size=1, max_size=2), max_size=3
        ),
        either=st.none() | integers | texts | items,
        anything=plain | st.lists(plain, max_size=2) | st.dictionaries(texts, plain, max_size=2),
        back=back,
        flag=st.booleans(),
    ),
    max_leaves=3,
)
sheets = st.builds(
    Sheet,
    lines=st.lists(st.builds(Line, item=items, when=times, count=integers), max_size=3),
    title=st.none() | texts,
)


@given(orders.filter(lambda order: order is not None))
def test_a_dataclass_comes_back_as_it_was(order: Order) -> None:
    record = hs.Record(order)
    assert record.is_json
    assert record.payload_as(Order) == order


@given(sheets, texts)
def test_a_struct_comes_back_as_it_was(sheet: Sheet, name: str) -> None:
    assert hs.Record(sheet).payload_as(Sheet) == sheet
    folder = Folder(sheet, name)
    assert hs.Record(folder).payload_as(Folder) == folder
    assert hs.Record(folder).payload_as(dict)["sheet"] == hs.Record(sheet).payload


def test_it_comes_back_from_a_store_by_every_way_in(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        stream = store.create_stream("orders")
        store.create_subscription("billing", stream="orders")
        stream.append(Item("a"))
        stream.append(Item("b"), key="k", attributes={"x": "y"})
        stream.append_many([Item("c"), hs.Record(Item("d"), key="k"), {"name": "e"}])
        stream.append_many([Item("f"), Item("g")], compression="gzip")
        with stream.producer() as producer:
            producer.submit(Item("h"))
        with store.transaction() as tx:
            tx.append("orders", Item("i"))
            tx.append_many("orders", [Item("j")])
        names = list("abcdefghij")
        assert [record.payload_as(Item).name for record in stream.read()] == names
        with store.subscription("billing").consumer("w") as consumer:
            batch = consumer.receive(10)
            assert [delivery.payload_as(Item).name for delivery in batch] == names


@pytest.mark.parametrize(
    ("payload", "kind", "field_", "said"),
    [
        ({"name": 1}, Item, "name", "must be str, not int 1"),
        ({}, Item, "name", "must be str, not nothing"),
        ({"name": "a", "qty": "two"}, Item, "qty", "must be int, not str 'two'"),
        ({"name": "a", "qty": 1.5}, Item, "qty", "must be int, not float 1.5"),
        ({"name": "a", "qty": True}, Item, "qty", "must be int, not bool True"),
        ({"name": "a", "price": False}, Item, "price", "must be float, not bool False"),
        ({"name": None}, Item, "name", "must be str, not NoneType None"),
        (b"raw", Item, "", "its payload must be a JSON object for Item, not bytes b'raw'"),
        ({"a": 1}, bytes, "", "its payload must be bytes, not dict {'a': 1}"),
        ({"a": [1, "x"]}, dict[str, list[int]], "['a'][1]", "must be int, not str 'x'"),
        ({"a": 1}, dict[str, int | str | None], "", ""),
        ({"a": 1.5}, dict[str, int | str], "['a']", "must be int or str, not float 1.5"),
        ({"a": [1]}, dict[str, tuple[int, int]], "['a']", "of 2 items, not list [1]"),
        ({"a": "no"}, dict[str, datetime], "['a']", "datetime in ISO 8601, not str 'no'"),
        ({"a": "blue"}, dict[str, Colour], "['a']", "Colour ('red', 2), not str 'blue'"),
        ({"a": True}, dict[str, Literal[1]], "['a']", "not bool True"),
        ({"a": 1}, dict[str, None], "['a']", "must be None, not int 1"),
        (
            {"items": [{"name": "a"}, {"name": "b", "qty": "x" * 99}], "placed": "2026-01-01"},
            Order,
            "items[1].qty",
            "must be int, not str '" + "x" * 59 + "...",
        ),
        (
            {"lines": [{"item": {"name": 3}, "when": "2026-01-01T00:00:00"}]},
            Sheet,
            ".lines[0].item.name".removeprefix("."),
            "Expected `str`, got `int`",
        ),
        (
            {"name": "n", "sheet": {"lines": 3}},
            Folder,
            "sheet.lines",
            "Expected `array`, got `int`",
        ),
    ],
)
def test_what_does_not_fit_is_named(payload: Any, kind: Any, field_: str, said: str) -> None:
    record = hs.Record(payload)
    if not said:
        assert record.payload_as(kind) == payload
        return
    with pytest.raises(hs.PayloadMismatch) as raised:
        record.payload_as(kind)
    assert raised.value.field == field_
    assert said in str(raised.value)
    assert not raised.value.retryable
    assert isinstance(raised.value, ValueError)


def test_the_record_is_named(tmp_path: Path) -> None:
    with hs.open(tmp_path / "s") as store:
        stream = store.create_stream("orders")
        record_id = stream.append({"name": "a", "qty": "two"})
        (record,) = stream.read()
        with pytest.raises(hs.PayloadMismatch) as raised:
            record.payload_as(Item)
    assert str(raised.value) == (
        f"Record {record_id} is no Item: field 'qty' must be int, not str 'two'."
    )


def test_keys_that_are_no_fields_are_left_out_and_defaults_fill_in() -> None:
    record = hs.Record({"name": "a", "colour": "red"})
    assert record.payload_as(Item) == Item("a", 1, Euros(0.0))
    least = hs.Record({"items": [], "placed": "2026-05-01T12:30:00+00:00"})
    assert least.payload_as(Order) == Order(
        items=[], placed=datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
    )


@dataclass
class Odd:
    value: Any


class Listed(msgspec.Struct, array_like=True):
    value: int


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (Odd(b"x"), TypeError, r"Odd.value must be something that JSON can hold, not bytes"),
        (Odd([1, {"a": object()}]), TypeError, r"Odd.value\[1\]\['a'\] must .* not object"),
        (Odd(2**60), ValueError, "2\\*\\*53"),
        (Odd(float("nan")), ValueError, "finite"),
        (Odd({1: 2}), TypeError, "str"),
        (Odd, TypeError, "not type"),
        (Listed(1), TypeError, "JSON object, and Listed is none"),
    ],
)
def test_what_json_cannot_hold_is_not_appended(
    tmp_path: Path, value: object, error: type[Exception], said: str
) -> None:
    with hs.open(tmp_path / "s") as store:
        stream = store.create_stream("orders")
        for call in (stream.append, lambda value: stream.append_many([b"x", value])):
            with pytest.raises(error, match=said):
                call(value)
        assert stream.tail() is None


class Corner(Enum):
    """Members whose values are a tuple and a dict, neither of which a set of options can hold."""

    ORIGIN = (0, 0)
    FAR = MappingProxyType({"x": 9, "y": [1.5]})


class Point(NamedTuple):
    x: int
    y: float = 0.0


@dataclass
class Map:
    corner: Corner
    point: Point
    names: abc.Set[str]
    seen: abc.MutableSet[int]
    path: abc.Collection[Point]
    trail: abc.MutableSequence[Corner]
    legend: abc.Mapping[str, Corner]
    index: OrderedDict[str, int]
    last: deque[int]


@pytest.mark.parametrize("corner", Corner)
def test_enums_of_any_values_and_abstract_collections_come_back(corner: Corner) -> None:
    made = Map(
        corner=corner,
        point=Point(1, 2.5),
        names={"a", "b"},
        seen={1},
        path=[Point(0), Point(1, 1.0)],
        trail=[Corner.FAR, Corner.ORIGIN],
        legend={"far": Corner.FAR},
        index=OrderedDict(b=1, a=2),
        last=deque([3, 4]),
    )
    back = hs.Record(made).payload_as(Map)
    assert back == made
    assert {type(getattr(back, name)) for name in ("names", "seen")} == {frozenset, set}
    assert (type(back.index), type(back.last)) == (OrderedDict, deque)
    assert isinstance(back.point, Point)


def test_what_fits_no_member_of_such_an_enum_is_named() -> None:
    with pytest.raises(
        hs.PayloadMismatch, match=r"\['at'\].* Corner \(\[0, 0\], .* not list \[1\]"
    ):
        hs.Record({"at": [1]}).payload_as(dict[str, Corner])


@pytest.mark.parametrize(
    "kind", [complex, "Item", list[complex], 3, abc.Iterator[int], abc.Generator]
)
def test_types_that_json_has_no_word_for_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="payload_as takes"):
        hs.Record({"a": [1]}).payload_as(dict[str, kind])


def test_msgspec_is_loaded_by_its_users_only() -> None:
    program = """
import dataclasses, json, sys, hstreamlite as hs
@dataclasses.dataclass
class Item:
    name: str
hs.Record(Item("a")).payload_as(Item)
print(json.dumps("msgspec" in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout) is False
