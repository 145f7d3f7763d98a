"""Records, ids and deliveries as users meet them; JSON against google.protobuf.Struct."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import struct
import sys
import tracemalloc
import weakref
from collections import OrderedDict, UserDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError
from hypothesis import given, strategies as st

from hstreamlite._native import fast
from hstreamlite.records import Delivery, Record, RecordId, RecordIds

U64, U32 = 2**64 - 1, 2**32 - 1
u64s, u32s = st.integers(0, U64), st.integers(0, U32)
ids = st.builds(RecordId, st.integers(0, 3), st.integers(0, 5), st.integers(0, 5))


def read(*items: Any, shard: int = 1, batch: int = 5, append_ms: int = 0) -> list[Record]:
    """The items as a reader gets them."""
    return fast.decode_batch(fast.encode_batch(items), shard, batch, append_ms=append_ms)


def wire_record(payload: bytes, header: bytes = b"") -> Record:
    """A record as a client wrote it: a header of these bytes, or none."""
    body = (b"\x0a" + bytes([len(header)]) + header if header else b"") + (
        b"\x12" + bytes([len(payload)]) + payload
    )
    (record,) = fast.decode_batch(b"\x0a" + bytes([len(body)]) + body, 1, 5)
    return record


def flagged_json(payload: bytes) -> Record:
    """A record with these bytes under the JSON flag."""
    body = b"\x12" + varint(len(payload)) + payload
    (record,) = fast.decode_batch(b"\x0a" + varint(len(body)) + body, 1, 5)
    return record


def struct_record(message: struct_pb2.Struct) -> Record:
    return flagged_json(message.SerializeToString())


def struct_bytes(record: Record) -> bytes:
    payload = record.__reduce__()[1][0]
    assert isinstance(payload, bytes)
    return payload


class Owner:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def _ack(self, delivery: Delivery) -> str:
        self.calls.append(("ack", delivery))
        return "acked"

    def _release(self, delivery: Delivery, after: float | None, reason: str | None) -> str:
        self.calls.append(("release", delivery, after, reason))
        return "released"

    def _extend(self, delivery: Delivery, by: float) -> str:
        self.calls.append(("extend", delivery, by))
        return "extended"


def deliver(*items: Any, owner: object | None = None, attempt: int = 1) -> list[Delivery]:
    body = fast.encode_batch(items)
    return fast.decode_batch(body, 1, 5, owner=owner or Owner(), attempt=attempt)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class TestRecordId:
    @given(u64s, st.integers(0, U64 - U32), u32s)
    def test_parse_inverts_str(self, shard: int, batch: int, index: int) -> None:
        rid = RecordId(shard, batch, index)
        assert str(rid) == f"{shard}-{batch}-{index}"
        parsed = RecordId.parse(str(rid))
        assert (parsed.shard_id, parsed.batch_id, parsed.batch_index) == (shard, batch, index)
        assert parsed.lsn == batch + index
        assert repr(rid) == f"RecordId('{rid}')"
        again = pickle.loads(pickle.dumps(rid))
        assert (again.shard_id, again.batch_id, again.batch_index) == (shard, batch, index)

    @given(st.text(alphabet="0123-+ x", max_size=12))
    def test_parse_takes_only_what_str_writes(self, text: str) -> None:
        try:
            parsed = RecordId.parse(text)
        except ValueError:
            return
        assert str(parsed) == text

    @pytest.mark.parametrize(
        "text",
        [
            *("", "1", "1-2", "1-2-", "1-2-3-", "1-2-3-4", "-1-2-3", "01-2-3", "1-2-3\n", " 1-2-3"),
            *("1_0-2-3", "\u0661-2-3", "\ud800", "1-2-3\0", f"{U64 + 1}-0-0", f"0-{U64 + 1}-0"),
            *(f"0-0-{U32 + 1}", f"0-{U64}-1", "9" * 400),
        ],
    )
    def test_parse_names_the_text_and_the_form(self, text: str) -> None:
        with pytest.raises(ValueError, match="shard-batch-index, such as '1-5-0'") as caught:
            RecordId.parse(text)
        assert str(caught.value).endswith(f"not {text!r}")

    def test_parse_wants_a_str(self) -> None:
        with pytest.raises(TypeError, match="text must be a str, not bytes"):
            RecordId.parse(b"1-2-3")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((-1, 0, 0), ValueError, "shard_id must be in 0..18446744073709551615, not -1"),
            ((0, U64 + 1, 0), ValueError, f"batch_id must be in 0..{U64}, not {U64 + 1}"),
            ((0, 0, U32 + 1), ValueError, "batch_index must be in 0..4294967295, not 4294967296"),
            ((0, U64, 1), ValueError, f"batch_id + batch_index must be in 0..{U64}, not {U64} + 1"),
            (("1", 0, 0), TypeError, "shard_id must be an int, not str"),
            ((0, 1.0, 0), TypeError, "batch_id must be an int, not float"),
            ((0, 0, None), TypeError, "batch_index must be an int, not NoneType"),
        ],
    )
    def test_arguments_are_checked_by_name(
        self, arguments: tuple[Any, Any, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            RecordId(*arguments)
        assert str(caught.value) == message

    def test_a_number_that_fails_to_convert_fails_with_its_own_error(self) -> None:
        class Broken:
            def __index__(self) -> int:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            RecordId(Broken(), 0, 0)  # type: ignore[arg-type]

    @given(ids, ids)
    def test_equality_and_hash_follow_shard_and_lsn(self, a: RecordId, b: RecordId) -> None:
        same = (a.shard_id, a.lsn) == (b.shard_id, b.lsn)
        assert (a == b) is same
        assert (a != b) is not same
        if same:
            assert hash(a) == hash(b)

    @given(ids, ids)
    def test_order_is_that_of_lsns_within_a_shard(self, a: RecordId, b: RecordId) -> None:
        if a.shard_id == b.shard_id:
            assert (a < b, a <= b, a > b, a >= b) == (
                a.lsn < b.lsn,
                a.lsn <= b.lsn,
                a.lsn > b.lsn,
                a.lsn >= b.lsn,
            )
        else:
            with pytest.raises(ValueError, match="within one shard only"):
                _ = a < b

    def test_order_across_shards_names_them(self) -> None:
        with pytest.raises(ValueError, match="these are of shards 1 and 2"):
            _ = RecordId(1, 0, 0) >= RecordId(2, 0, 0)

    def test_an_id_differs_from_anything_else(self) -> None:
        assert RecordId(1, 5, 0) != "1-5-0"
        assert RecordId(1, 5, 0) != (1, 5, 0)
        with pytest.raises(TypeError):
            _ = RecordId(1, 5, 0) < 3  # type: ignore[operator]

    def test_ids_are_immutable(self) -> None:
        rid = RecordId(1, 5, 0)
        for name in ("shard_id", "batch_id", "batch_index", "lsn", "other"):
            with pytest.raises(AttributeError):
                setattr(rid, name, 1)

    def test_hashes_spread(self) -> None:
        hashes = {hash(RecordId(s, b, 0)) & 0xFFFFF for s in range(10) for b in range(1000)}
        assert len(hashes) > 9_800


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)
json_objects = st.dictionaries(st.text(max_size=10), json_values, max_size=5)


def as_read(value: Any) -> Any:
    """What reading makes of a value: integral floats up to 2**53 become int."""
    if isinstance(value, dict):
        return {k: as_read(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_read(v) for v in value]
    negative_zero = (
        value == 0 and math.copysign(1, value) < 0 if isinstance(value, float) else False
    )
    if (
        isinstance(value, float)
        and value.is_integer()
        and abs(value) <= 2**53
        and not negative_zero
    ):
        return int(value)
    return value


def from_struct(value: Any) -> Any:
    """A Struct or Value message as Python objects, by protobuf's own parser."""
    if isinstance(value, struct_pb2.Struct):
        return {k: from_struct(v) for k, v in value.fields.items()}
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return from_struct(value.struct_value)
    if kind == "list_value":
        return [from_struct(v) for v in value.list_value.values]
    return as_read(getattr(value, kind)) if kind not in (None, "null_value") else None


def nested(depth: int, wrap: Callable[[Any], Any]) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth - 1):
        value = wrap(value)
    return {"root": value}


class TestJson:
    @given(json_objects)
    def test_a_payload_reads_as_written_and_as_protobuf_reads_it(
        self, given: dict[str, Any]
    ) -> None:
        record = Record(given)
        assert record.is_json
        assert repr(record.payload) == repr(as_read(given))
        assert repr(read(record)[0].payload) == repr(as_read(given))
        message = struct_pb2.Struct.FromString(struct_bytes(record))
        assert from_struct(message) == record.payload
        assert len(struct_bytes(record)) == message.ByteSize()

    @given(json_objects)
    def test_structs_of_protobuf_are_read(self, given: dict[str, Any]) -> None:
        message = struct_pb2.Struct()
        message.update(given)
        record = struct_record(message)
        assert record.payload == as_read(given)

    @given(st.binary(max_size=40))
    def test_bytes_that_are_no_struct_stay_bytes(self, data: bytes) -> None:
        record = wire_record(data)
        try:
            message = struct_pb2.Struct.FromString(data)
        except DecodeError:
            message = None
        if record.is_json:
            assert message is not None
            assert same_json(record.payload, from_struct(message))
        else:
            assert record.payload == data

    @given(json_objects, st.data())
    def test_damaged_structs_are_read_as_protobuf_reads_them(
        self, given: dict[str, Any], data: st.DataObject
    ) -> None:
        damaged = bytearray(struct_bytes(Record(given)))
        for _ in range(data.draw(st.integers(0, 2)) if damaged else 0):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        message = struct_pb2.Struct()
        record = flagged_json(bytes(damaged))
        if record.is_json:
            message.ParseFromString(bytes(damaged))
            assert same_json(record.payload, from_struct(message))

    @given(st.lists(json_values, min_size=1, max_size=4))
    def test_repeated_fields_merge_as_protobuf_merges_them(self, values: list[Any]) -> None:
        value = b"".join(struct_value(v) for v in values)
        twice = b"\x12" + varint(len(value)) + value
        entry = b"\x0a\x01k" + twice + twice
        payload = b"\x0a" + varint(len(entry)) + entry
        record = flagged_json(payload)
        assert record.is_json
        assert same_json(record.payload, from_struct(struct_pb2.Struct.FromString(payload)))

    @pytest.mark.parametrize(
        ("entry", "payload"),
        [
            (b"\x0a\x01a\x0a\x01b", {"b": None}),
            (b"", {"": None}),
            (b"\x0a\x01\xff\x0a\x01k", None),
            (b"\x0a\x01k\x0a\x01\xff", None),
            (b"\x0a\x01k\x12\x06\x1a\x01\xff\x1a\x01x", None),
        ],
    )
    def test_a_string_that_a_later_one_replaces_must_be_utf8_too(
        self, entry: bytes, payload: dict[str, Any] | None
    ) -> None:
        data = b"\x0a" + varint(len(entry)) + entry
        record = flagged_json(data)
        assert record.payload == (data if payload is None else payload)
        if payload is None:
            with pytest.raises(DecodeError):
                struct_pb2.Struct.FromString(data)
        else:
            assert from_struct(struct_pb2.Struct.FromString(data)) == payload

    @pytest.mark.parametrize("entry", [b"\x1a\x01x", b"\x08\x01", b"\x0a\x01k\x1a\x01x"])
    def test_an_entry_with_what_no_struct_has_stays_bytes(self, entry: bytes) -> None:
        data = b"\x0a" + varint(len(entry)) + entry
        assert flagged_json(data).payload == data

    def test_values_come_back_in_their_python_types(self) -> None:
        given = {"i": 3, "f": 3.5, "z": 3.0, "t": True, "n": None, "l": (1, [2]), "d": {"": "x"}}
        assert repr(Record(given).payload) == repr(
            {"i": 3, "f": 3.5, "z": 3, "t": True, "n": None, "l": [1, [2]], "d": {"": "x"}}
        )

    def test_numbers_at_the_edges(self) -> None:
        edges = {"a": 2**53, "b": -(2**53), "c": 2.0**53, "d": 2.0**54, "e": -0.0, "f": 5e-324}
        assert repr(Record(edges).payload) == repr({**edges, "c": 2**53})

    def test_subclasses_of_the_basic_types_are_taken(self) -> None:
        class Number(int):
            pass

        class Text(str):
            __slots__ = ()

        payload = Record(OrderedDict(a=Number(1), b=Text("x"))).payload
        assert repr(payload) == "{'a': 1, 'b': 'x'}"

    def test_numbers_that_json_lacks_are_read_from_the_wire(self) -> None:
        message = struct_pb2.Struct()
        message.fields["x"].number_value = math.inf
        assert struct_record(message).payload == {"x": math.inf}

    def test_a_value_without_kind_reads_as_none(self) -> None:
        message = struct_pb2.Struct()
        message.fields["x"].SetInParent()
        assert struct_record(message).payload == {"x": None}

    @pytest.mark.parametrize("wrap", [lambda v: {"d": v}, lambda v: [v], lambda v: (v,)])
    def test_what_can_be_written_is_within_every_clients_nesting_limit(self, wrap: Any) -> None:
        record = Record(nested(32, wrap))
        message = struct_pb2.Struct.FromString(struct_bytes(record))
        assert from_struct(message) == record.payload
        with pytest.raises(ValueError, match="may be nested 32 deep, and this one is deeper"):
            Record(nested(33, wrap))

    def test_a_payload_that_holds_itself_is_refused(self) -> None:
        knot: dict[str, Any] = {}
        knot["self"] = knot
        with pytest.raises(ValueError, match="nested 32 deep"):
            Record(knot)

    def test_reading_stops_at_a_depth(self) -> None:
        def lists(depth: int) -> bytes:
            value = b""
            for _ in range(depth):
                inner = b"\x0a" + varint(len(value)) + value
                value = b"\x32" + varint(len(inner)) + inner
            entry = b"\x12" + varint(len(value)) + value
            return b"\x0a" + varint(len(entry)) + entry

        for depth, readable in ((63, True), (64, False), (5_000, False)):
            record = flagged_json(lists(depth))
            assert record.is_json is readable
            assert isinstance(record.payload, dict if readable else bytes)

    @pytest.mark.parametrize(
        ("payload", "error", "message"),
        [
            ({"a": 2**53 + 1}, ValueError, "integers up to 2**53 exactly"),
            ({"a": -(2**53) - 1}, ValueError, "integers up to 2**53 exactly"),
            ({"a": 10**5000}, ValueError, "write it as a str"),
            ({"a": math.nan}, ValueError, "cannot hold nan: JSON has finite numbers only"),
            ({"a": -math.inf}, ValueError, "cannot hold -inf"),
            ({"a": "\ud800"}, ValueError, "cannot hold the surrogate in '\\ud800'"),
            ({"\ud800": 1}, ValueError, "cannot hold the surrogate in '\\ud800'"),
            ({1: 1}, TypeError, "the keys of a JSON payload must be str, and 1 is not"),
            ({"a": b"x"}, TypeError, "str, int, float, bool and None, not bytes"),
            ({"a": {"b": [set()]}}, TypeError, "not set"),
        ],
    )
    def test_what_json_cannot_hold_is_refused(
        self, payload: dict[Any, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            Record(payload)
        assert message in str(caught.value)
        assert type(caught.value) is error
        with pytest.raises(error):
            fast.encode_batch([b"first", payload])

    def test_changing_the_dict_given_or_read_changes_no_record(self) -> None:
        given = {"a": [1]}
        record = Record(given)
        given["a"].append(2)
        assert record.payload == {"a": [1]}
        record.payload["b"] = 1
        assert read(record)[0].payload == {"a": [1]}

    @pytest.mark.parametrize("data", [b'{"a": 1}', b"hello", b"\x10\x05", b"\x0a\x03\x0a\x01\xff"])
    def test_a_record_flagged_json_with_other_bytes_is_carried_unchanged(self, data: bytes) -> None:
        record = wire_record(data)
        assert (record.payload, record.is_json) == (data, False)
        assert read(record)[0].payload == data
        assert fast.encode_batch([record])[:4] == bytes([0x0A, len(data) + 4, 0x0A, 0])
        assert record == read(data)[0]
        assert hash(record) == hash(read(data)[0])

    def test_one_foreign_record_does_not_fail_its_batch(self) -> None:
        body = fast.encode_batch([{"a": 1}, wire_record(b"hello"), b"raw"])
        assert [r.payload for r in fast.decode_batch(body, 1, 5)] == [{"a": 1}, b"hello", b"raw"]


def struct_value(value: Any) -> bytes:
    """The fields of a Value message that holds the value."""
    message = struct_pb2.Struct()
    message.update({"k": value})
    return message.fields["k"].SerializeToString()


def same_json(a: Any, b: Any) -> bool:
    """Equality that takes NaN for equal to NaN."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_json, a, b))
    return bool(a == b) or (a != a and b != b)


records = st.builds(
    Record,
    st.binary(max_size=50) | json_objects,
    key=st.none() | st.text(max_size=20),
    attributes=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)


class TestRecord:
    @given(records)
    def test_a_record_read_is_the_record_written(self, record: Record) -> None:
        (back,) = read(record, append_ms=7)
        assert (back.payload, back.key, back.attributes, back.is_json) == (
            record.payload,
            record.key,
            record.attributes,
            record.is_json,
        )
        assert (back.id, back.append_time_ms) == (RecordId(1, 5, 0), 7)
        assert back != record
        assert fast.encode_batch([back]) == fast.encode_batch([record])

    @given(records)
    def test_records_survive_pickling_and_copying(self, record: Record) -> None:
        for one in (record, read(record, append_ms=1_700_000_000_123)[0]):
            for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
                assert again == one
                assert hash(again) == hash(one)
                assert again.append_time == one.append_time
                assert repr(again) == repr(one)
                assert type(again) is Record

    @given(records, records)
    def test_equality_is_that_of_what_a_user_sees(self, a: Record, b: Record) -> None:
        seen = [(r.payload, r.key, r.attributes, r.is_json) for r in (a, b)]
        assert (a == b) is (seen[0] == seen[1])
        assert (a != b) is not (a == b)
        if a == b:
            assert hash(a) == hash(b)

    def test_equality_ignores_the_order_of_json_and_attributes(self) -> None:
        a = Record({"x": 1, "y": 2}, attributes={"p": "1", "q": "2"})
        b = Record({"y": 2, "x": 1.0}, attributes={"q": "2", "p": "1"})
        assert a == b
        assert hash(a) == hash(b)
        assert a != Record({"x": 1, "y": 2}, attributes={"p": "1"})
        assert a != {"x": 1, "y": 2}
        with pytest.raises(TypeError):
            _ = a < b  # type: ignore[operator]

    def test_the_id_counts_for_equality_the_time_does_not(self) -> None:
        assert read(b"x", append_ms=1) == read(b"x", append_ms=2)
        assert read(b"x") != read(b"x", batch=6)
        assert read(b"x") != read(b"x", shard=2)

    @pytest.mark.parametrize(
        "payload",
        [b"data", bytearray(b"data"), memoryview(b"-data-")[1:5], memoryview(b"d-a-t-a-")[::2]],
    )
    def test_any_bytes_like_payload_is_kept_as_bytes(self, payload: Any) -> None:
        assert type(Record(payload).payload) is bytes
        assert Record(payload).payload == b"data"
        assert read(payload)[0].payload == b"data"

    def test_a_subclass_of_bytes_becomes_bytes(self) -> None:
        class Tagged(bytes):
            pass

        assert type(Record(Tagged(b"x")).payload) is bytes
        assert read(Tagged(b"x"))[0].payload == b"x"

    def test_a_bytearray_is_copied(self) -> None:
        data = bytearray(b"data")
        record = Record(data)
        data[0] = 0
        assert record.payload == b"data"

    def test_defaults(self) -> None:
        record = Record(b"")
        assert (record.key, record.attributes, record.is_json) == (None, {}, False)
        assert (record.id, record.append_time, record.append_time_ms) == (None, None, None)
        assert Record(b"", key="", attributes={}) == record
        assert Record(b"", key=None, attributes=None) == record

    def test_attributes_are_a_copy_both_ways(self) -> None:
        given = {"a": "1"}
        record = Record(b"", attributes=given)
        given["a"] = "2"
        record.attributes["b"] = "3"
        assert record.attributes == {"a": "1"}

    def test_any_mapping_serves_as_attributes(self) -> None:
        for mapping in (UserDict(a="1"), MappingProxyType({"a": "1"}), OrderedDict(a="1")):
            assert Record(b"", attributes=mapping).attributes == {"a": "1"}

    def test_append_time_is_an_exact_utc_datetime(self) -> None:
        (record,) = read(b"", append_ms=1_700_000_000_123)
        assert record.append_time == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
        assert record.append_time is not None
        assert record.append_time.tzinfo is UTC
        (late,) = read(b"", append_ms=253_402_300_799_999)
        assert late.append_time == datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
        (beyond,) = read(b"", append_ms=U64)
        assert beyond.append_time_ms == U64
        with pytest.raises(OverflowError):
            _ = beyond.append_time

    def test_keys_are_limited_in_utf8_bytes(self) -> None:
        assert Record(b"", key="\u20ac" * 21_845).key == "\u20ac" * 21_845
        with pytest.raises(
            ValueError, match="key may take 65536 bytes in UTF-8, and this one takes 65538"
        ):
            Record(b"", key="\u20ac" * 21_846)

    def test_text_that_is_no_utf8_is_read_with_replacement(self) -> None:
        record = wire_record(b"", b"\x08\x01\x1a\x01\xff\x12\x06\x0a\x01\xfe\x12\x01\xfd")
        assert (record.key, record.attributes) == ("\ufffd", {"\ufffd": "\ufffd"})

    def test_a_later_attribute_of_the_same_name_counts(self) -> None:
        entry = b"\x12\x06\x0a\x01a\x12\x01"
        record = wire_record(b"", entry + b"1" + b"\x1a\x01k" + entry + b"2")
        assert (record.key, record.attributes) == ("k", {"a": "2"})
        assert read(record)[0].attributes == {"a": "2"}

    def test_a_record_without_header_is_json_without_key(self) -> None:
        record = wire_record(b"")
        assert (record.payload, record.is_json, record.key) == ({}, True, None)

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (
                lambda: Record("text"),  # type: ignore[arg-type]
                TypeError,
                "a payload must be bytes-like or a dict, not str: encode the text, as in "
                "text.encode()",
            ),
            *(
                (
                    lambda value=value: Record(value),
                    TypeError,
                    f"a payload must be bytes-like or a dict, not {type(value).__name__}: wrap "
                    "JSON values in a dict, as in {'value': ...}",
                )
                for value in (None, [1], (1,), 1, 1.5, True)
            ),
            (
                lambda: Record(object()),  # type: ignore[arg-type]
                TypeError,
                "a payload must be bytes-like or a dict, not object",
            ),
            (
                lambda: Record(b"", key=b"k"),  # type: ignore[arg-type]
                TypeError,
                "key must be a str or None, not bytes",
            ),
            (
                lambda: Record(b"", key="a\ud800"),
                ValueError,
                "key must be text that UTF-8 can hold, and 'a\\ud800' has a surrogate",
            ),
            (
                lambda: Record(b"", attributes=[("a", "b")]),  # type: ignore[arg-type]
                TypeError,
                "attributes must be a mapping of str to str or None, not list",
            ),
            (
                lambda: Record(b"", attributes={"a": 1}),  # type: ignore[dict-item]
                TypeError,
                "attributes must map str to str, not 'a' to 1",
            ),
            (
                lambda: Record(b"", attributes={1: "a"}),  # type: ignore[dict-item]
                TypeError,
                "attributes must map str to str, not 1 to 'a'",
            ),
            (
                lambda: Record(b"", attributes={"a": "\ud800"}),
                ValueError,
                "attributes must be text that UTF-8 can hold, and '\\ud800' has a surrogate",
            ),
        ],
    )
    def test_wrong_arguments(
        self, make: Callable[[], Record], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            make()
        assert str(caught.value) == message
        assert type(caught.value) is error

    def test_options_are_keyword_only(self) -> None:
        with pytest.raises(TypeError):
            Record(b"", "key")  # type: ignore[call-arg]

    def test_a_released_memoryview_fails_with_its_own_error(self) -> None:
        view = memoryview(b"x")
        view.release()
        with pytest.raises(ValueError, match="released"):
            Record(view)

    def test_records_are_immutable(self) -> None:
        record = Record(b"x")
        names = ("payload", "key", "attributes", "is_json", "id", "append_time", "append_time_ms")
        for name in (*names, "other"):
            with pytest.raises(AttributeError):
                setattr(record, name, 1)
        with pytest.raises(TypeError):
            Record.other = 1  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("record", "text"),
        [
            (Record(b"x"), "Record(b'x')"),
            (Record(b"x" * 32), f"Record({b'x' * 32!r})"),
            (Record(b"x" * 33), f"Record({b'x' * 32!r}... 33 bytes)"),
            (Record({"a": 1}, key="k"), "Record({'a': 1}, key='k')"),
            (Record({"a": "x" * 99}), f"Record({{'a': '{'x' * 65}...)"),
            (
                read(Record(b"x", key="k", attributes={"a": "b"}))[0],
                "Record(b'x', key='k', attributes={'a': 'b'}, id=RecordId('1-5-0'))",
            ),
            (
                deliver(b"x", attempt=3)[0],
                "Delivery(b'x', id=RecordId('1-5-0'), attempt=3)",
            ),
        ],
    )
    def test_repr(self, record: Record, text: str) -> None:
        assert repr(record) == text

    def test_a_subclass_keeps_its_type_and_its_state_is_its_own(self) -> None:
        class Order(Record):
            note = ""

        order = Order({"qty": 2}, key="k")
        order.note = "rush"
        assert order.payload == {"qty": 2}
        assert read(order)[0].payload == {"qty": 2}
        assert type(copy.copy(order)) is Order
        alive = weakref.ref(order)
        order.note = order  # type: ignore[assignment]
        del order
        gc.collect()
        assert alive() is None

    def test_a_subclass_may_show_another_payload(self) -> None:
        class Upper(Record):
            @property
            def payload(self) -> bytes:
                plain = super().payload
                assert isinstance(plain, bytes)
                return plain.upper()

        assert Upper(b"abc").payload == b"ABC"
        assert read(Upper(b"abc"))[0].payload == b"abc"


class TestBatches:
    @given(st.lists(records, max_size=6), u32s, st.integers(0, U64 - U32))
    def test_records_are_numbered_in_order(
        self, given: list[Record], shard: int, batch: int
    ) -> None:
        body = fast.encode_batch(given)
        assert fast.count_batch(body) == len(given)
        decoded = fast.decode_batch(body, shard, batch)
        assert [r.id for r in decoded] == [RecordId(shard, batch, i) for i in range(len(given))]
        assert [r.payload for r in decoded] == [r.payload for r in given]

    @given(st.lists(records, max_size=6), st.integers(0, 7), st.none() | st.integers(0, 7))
    def test_a_part_of_a_batch(self, given: list[Record], first: int, count: int | None) -> None:
        body = fast.encode_batch(given)
        if first + (count or 0) <= len(given):
            whole = fast.decode_batch(body, 1, 5)
            end = len(given) if count is None else first + count
            assert fast.decode_batch(body, 1, 5, first, count) == whole[first:end]
        else:
            with pytest.raises(ValueError, match=f"batch 1-5 holds {len(given)} records, too few"):
                fast.decode_batch(body, 1, 5, first, count)

    @given(st.lists(records, max_size=6), st.sets(st.integers(0, 6)), st.binary(max_size=9))
    def test_some_records_of_a_batch_are_a_batch(
        self, given: list[Record], picked: set[int], rest: bytes
    ) -> None:
        body = fast.encode_batch(given)
        runs = [(index, index + 1) for index in sorted(picked)]
        if max(picked, default=-1) < len(given):
            some = fast.encode_batch([given[index] for index in sorted(picked)])
            assert fast.pick_batch(body, runs) == some
            assert fast.pick_batch(body + rest, runs) == some
            assert fast.pick_batch(body, [(0, len(given))] if given else []) == body
        else:
            with pytest.raises(ValueError, match="malformed batch of"):
                fast.pick_batch(body, runs)
        for wrong in ([(2, 2)], [(1, 2), (0, 1)], [(0, 1 << 40)]):
            with pytest.raises(ValueError, match="malformed batch of"):
                fast.pick_batch(body, wrong)

    @given(st.binary(max_size=60))
    def test_pieces_of_arbitrary_bytes_are_pieces_or_a_value_error(self, body: bytes) -> None:
        with suppress(ValueError):
            assert len(fast.pick_batch(body, [(0, 1), (2, 3)])) <= len(body)

    @given(st.binary(max_size=60))
    def test_arbitrary_bytes_are_a_batch_or_a_value_error(self, body: bytes) -> None:
        try:
            count = fast.count_batch(body)
        except ValueError:
            with pytest.raises(
                ValueError, match=f"malformed batch 1-5 of {len(body)} bytes, at byte "
            ):
                fast.decode_batch(body, 1, 5)
        else:
            decoded = fast.decode_batch(body, 1, 5)
            assert len(decoded) == count
            assert [repr(r) for r in fast.decode_batch(fast.encode_batch(decoded), 1, 5)] == [
                repr(r) for r in decoded
            ]

    def test_the_default_key_serves_items_without_one(self) -> None:
        items: list[Any] = [b"a", {"b": 1}, Record(b"c"), Record(b"d", key="own"), bytearray(b"e")]
        body = fast.encode_batch(items, key="k\u00e9y")
        keys = [r.key for r in fast.decode_batch(body, 1, 5)]
        assert keys == ["k\u00e9y", "k\u00e9y", "k\u00e9y", "own", "k\u00e9y"]

    def test_consecutive_equal_keys_share_one_str(self) -> None:
        keys = ["alpha", "alpha", "beta", None, "beta", "alpha"]
        decoded = read(*(Record(b"", key=k) for k in keys))
        assert [r.key for r in decoded] == keys
        assert decoded[0].key is decoded[1].key
        assert decoded[2].key is decoded[4].key

    def test_items_may_be_any_iterable(self) -> None:
        assert fast.encode_batch(i for i in (b"a", b"b")) == fast.encode_batch([b"a", b"b"])

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (
                (b"", -1, 0),
                ValueError,
                "a 64-bit number must be in 0..18446744073709551615, not -1",
            ),
            ((b"", 0, 0, 2**32), ValueError, "a 32-bit number must be in 0..4294967295"),
            ((b"", 0, 0, 0, 2**32), ValueError, "a 32-bit number must be in 0..4294967295"),
            ((b"", 0, 0, 0, "x"), TypeError, "a 32-bit number must be an int, not str"),
            (("", 0, 0), TypeError, "bytes-like"),
        ],
    )
    def test_wrong_arguments(
        self, arguments: tuple[Any, ...], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            fast.decode_batch(*arguments)
        assert message in str(caught.value)

    def test_counting_refuses_what_is_malformed(self) -> None:
        with pytest.raises(ValueError, match=r"^malformed batch of 2 bytes$"):
            fast.count_batch(b"\x0a\x05")

    def test_wrong_items_and_keys(self) -> None:
        with pytest.raises(TypeError, match="a payload must be bytes-like or a dict, not int"):
            fast.encode_batch(b"abc")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not iterable"):
            fast.encode_batch(1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="key must be a str or None, not int"):
            fast.encode_batch([], key=1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="bytes-like"):
            fast.count_batch("")  # type: ignore[arg-type]


class TestDelivery:
    def test_a_delivery_is_the_record_with_an_attempt(self) -> None:
        (delivery,) = deliver(Record({"a": 1}, key="k"), attempt=2)
        assert isinstance(delivery, Record)
        assert delivery == read(Record({"a": 1}, key="k"))[0]
        assert (delivery.attempt, delivery.id, delivery.key) == (2, RecordId(1, 5, 0), "k")

    def test_its_methods_call_the_owner_and_return_what_that_returns(self) -> None:
        owner = Owner()
        (delivery,) = deliver(b"x", owner=owner)
        assert delivery.ack() == "acked"
        assert delivery.release() == "released"
        assert delivery.release(after=5.0) == "released"
        assert delivery.release(reason="no address") == "released"
        assert delivery.extend(by=30) == "extended"
        assert owner.calls == [
            ("ack", delivery),
            ("release", delivery, None, None),
            ("release", delivery, 5.0, None),
            ("release", delivery, None, "no address"),
            ("extend", delivery, 30),
        ]
        assert all(call[1] is delivery for call in owner.calls)

    def test_errors_of_the_owner_pass_through(self) -> None:
        (delivery,) = deliver(b"x", owner=object())
        with pytest.raises(AttributeError, match="_ack"):
            delivery.ack()

    def test_a_delivery_without_consumer_says_so(self) -> None:
        restore = Delivery._restore  # type: ignore[attr-defined]
        lost = restore(b"x", True, None, None, False, 0, 0, 0, 0)
        with pytest.raises(RuntimeError, match="the consumer of this delivery is gone"):
            lost.ack()

    @pytest.mark.parametrize(("key", "attributes"), [(b"k", None), (None, {"a": "b"})])
    def test_a_pickle_of_another_shape_is_a_type_error(self, key: Any, attributes: Any) -> None:
        restore = Delivery._restore  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="takes what __reduce__"):
            restore(b"x", True, key, attributes, False, 0, 0, 0, 0)

    def test_arguments_are_keyword_only(self) -> None:
        (delivery,) = deliver(b"x")
        with pytest.raises(TypeError):
            delivery.release(5.0)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            delivery.extend(5.0)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"extend\(\) needs the keyword argument 'by'"):
            delivery.extend()  # type: ignore[call-arg]

    def test_deliveries_come_from_consumers_only(self) -> None:
        with pytest.raises(TypeError, match="cannot create"):
            Delivery(b"x")
        with pytest.raises(TypeError):
            Delivery.__new__(Delivery, b"x")
        with pytest.raises(TypeError):
            Record.__new__(Delivery, b"x")
        with pytest.raises(TypeError):
            type("Sub", (Delivery,), {})

    def test_a_pickled_delivery_is_the_plain_record(self) -> None:
        (delivery,) = deliver(Record(b"x", key="k"))
        again = pickle.loads(pickle.dumps(delivery))
        assert type(again) is Record
        assert again == delivery


class TestMemory:
    def test_records_are_left_out_of_garbage_collection_until_their_dict_is_read(self) -> None:
        raw, json = read(Record(b"x", key="k", attributes={"a": "b"}), {"a": 1})
        assert not gc.is_tracked(raw)
        assert not gc.is_tracked(json)
        assert json.payload == {"a": 1}
        assert gc.is_tracked(json)
        assert not gc.is_tracked(Record(b"x"))

    def test_a_cycle_through_the_payload_is_collected(self) -> None:
        class Node:
            pass

        node = Node()
        (record,) = read({"a": 1})
        node.record = record  # type: ignore[attr-defined]
        record.payload["node"] = node  # type: ignore[index]
        alive = weakref.ref(node)
        del node, record
        gc.collect()
        assert alive() is None

    def test_a_cycle_through_the_owner_is_collected(self) -> None:
        class Slotted:
            __slots__ = ("__weakref__", "held")

        owner = Slotted()
        owner.held = deliver(b"x", {"a": 1}, owner=owner)  # type: ignore[attr-defined]
        alive = weakref.ref(owner)
        del owner
        gc.collect()
        assert alive() is None

    def test_types_are_released_with_their_instances(self) -> None:
        owner = Owner()
        for kind, make in (
            (Record, lambda: read(b"x", {"a": 1})),
            (Record, lambda: Record(b"x")),
            (Delivery, lambda: deliver(b"x", owner=owner)),
            (RecordId, lambda: RecordId(1, 2, 3)),
        ):
            before = sys.getrefcount(kind)
            for _ in range(100):
                make()
            assert sys.getrefcount(kind) == before

    def test_no_call_leaks(self) -> None:
        owner = Owner()
        good: list[Any] = [
            Record({"a": [1, "x"]}, key="k", attributes={"a": "b"}),
            b"x",
            {"y": 2.5},
        ]
        body = fast.encode_batch(good)
        foreign = wire_record(b"hello")

        def everything() -> None:
            decoded: Sequence[Record] = fast.decode_batch(body, 1, 5, append_ms=1)
            for record in (*decoded, *fast.decode_batch(body, 1, 5, owner=owner), foreign):
                repr(record)
                hash(record)
                _ = record.payload, record.attributes, record.id, record.append_time, record.key
                pickle.loads(pickle.dumps(record))
                _ = record == decoded[0]
            fast.encode_batch([*decoded, {"a": {"b": 1}}, bytearray(b"x")], key="\u20ac")
            rid = RecordId.parse("1-2-3")
            _ = str(rid), repr(rid), rid < rid, hash(rid), pickle.dumps(rid)
            for failing in (
                lambda: fast.encode_batch(
                    [{"a": 1}, bytearray(b"x"), None]  # type: ignore[list-item]
                ),
                lambda: fast.encode_batch([{"a": [1, {2}]}]),
                lambda: Record({"a": "\ud800"}),
                lambda: Record(b"x", key="\ud800"),
                lambda: Record(b"x", key="k", attributes={"a": 1}),  # type: ignore[dict-item]
                lambda: fast.decode_batch(body[:-1], 1, 5, owner=owner),
                lambda: fast.decode_batch(body, 1, 5, 1, 3),
                lambda: fast.decode_batch(body, 1, 5, 1, "x"),  # type: ignore[call-overload]
                lambda: RecordId.parse("x"),
                lambda: RecordId(1, -1, 0),
            ):
                with pytest.raises((ValueError, TypeError)):
                    failing()

        def growth() -> int:
            gc.collect()
            before = sys.getallocatedblocks()
            for _ in range(100):
                everything()
            gc.collect()
            return sys.getallocatedblocks() - before

        # The interpreter fills caches of its own for a while; a leak never comes to rest.
        assert any(growth() < 20 for _ in range(20))
        assert sys.getrefcount(owner) == 2

    def test_running_out_of_memory_anywhere_is_a_memory_error(self) -> None:
        testcapi: Any = pytest.importorskip("_testcapi")
        owner = Owner()
        items: list[Any] = [
            Record({"a": [1, "x"]}, key="k", attributes={"a": "b"}),
            {"z": "x" * 3000, "y": {"x": [True]}},
            bytearray(b"x"),
        ]
        body = fast.encode_batch(items)
        tried: list[Callable[[], object]] = [
            lambda: fast.encode_batch(items, key="k"),
            lambda: fast.decode_batch(body, 1, 5),
            lambda: fast.decode_batch(body, 1, 5, owner=owner),
            lambda: [r.payload for r in fast.decode_batch(body, 1, 5, append_ms=1)],
            lambda: [(r.id, r.append_time) for r in fast.decode_batch(body, 1, 5, append_ms=1)],
            lambda: [repr(r) for r in fast.decode_batch(body, 1, 5)],
            lambda: [hash(r) for r in fast.decode_batch(body, 1, 5)],
            lambda: fast.decode_batch(body, 1, 5) == fast.decode_batch(body, 1, 5),
            lambda: [r.attributes for r in fast.decode_batch(body, 1, 5)],
            lambda: [r.__reduce__() for r in fast.decode_batch(body, 1, 5)],
            lambda: Record({"a": 1}, key="k", attributes={"a": "b"}),
            lambda: str(RecordId.parse("1-2-3")),
            lambda: RecordId(1, 2, 2**31).__reduce__(),
        ]
        result: object = None
        for one in tried:
            expected = repr(one())
            for start in range(10_000):
                testcapi.set_nomemory(start)
                try:
                    result = one()
                except MemoryError:
                    continue
                finally:
                    testcapi.remove_mem_hooks()
                assert repr(result) == expected
                break
            else:
                pytest.fail("never enough memory")
        del one, result
        assert sys.getrefcount(owner) == 2

    def test_decoding_keeps_no_memory(self) -> None:
        body = fast.encode_batch([Record(b"x" * 1000, key=f"k{i}") for i in range(1000)])
        tracemalloc.start()
        try:
            fast.decode_batch(body, 1, 5)
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(10):
                fast.decode_batch(body, 1, 5)
            assert tracemalloc.get_traced_memory()[0] - before < 10_000
        finally:
            tracemalloc.stop()


class TestRecordIds:
    runs = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50), st.integers(0, 4)), max_size=5)

    @given(runs, st.randoms(use_true_random=False), st.booleans())
    def test_they_are_the_sequence_of_their_ids(self, runs: Any, rng: Any, shuffled: bool) -> None:
        order = [number for number, (_, _, count) in enumerate(runs) for _ in range(count)]
        if shuffled:
            rng.shuffle(order)
        expected, seen = [], [0] * len(runs)
        for number in order:
            expected.append(RecordId(runs[number][0], runs[number][1], seen[number]))
            seen[number] += 1
        ids = RecordIds(runs, order if shuffled else None)
        texts = [str(i) for i in expected]
        assert [str(i) for i in ids] == texts
        assert len(ids) == len(expected)
        assert [str(ids[i]) for i in range(-len(ids), len(ids))] == texts * 2
        assert ids[1:-1] == tuple(expected[1:-1])
        assert ids[::-2] == tuple(expected[::-2])
        assert list(reversed(ids)) == expected[::-1]
        assert ids == tuple(expected) == ids
        assert hash(ids) == hash(tuple(expected))
        assert all(i in ids for i in expected)
        again = pickle.loads(pickle.dumps(ids))
        assert again == ids
        assert repr(again) == repr(ids)
        for bad in (len(ids), -len(ids) - 1):
            with pytest.raises(IndexError, match=f"no record {bad} among {len(ids)} ids"):
                ids[bad]

    def test_they_differ_by_length_and_place(self) -> None:
        ids = RecordIds([(1, 5, 3)])
        assert ids == RecordIds([(1, 5, 1), (1, 6, 2)])
        assert ids != RecordIds([(1, 5, 2)])
        assert ids != RecordIds([(2, 5, 3)])
        assert ids != list(ids)
        assert not RecordIds([])

    def test_repr_names_the_ends(self) -> None:
        assert repr(RecordIds([(1, 5, 3)])) == "RecordIds([1-5-0, 1-5-1, 1-5-2])"
        assert repr(RecordIds([(1, 5, 9)])) == "RecordIds([1-5-0, 1-5-1, ... 1-5-8], 9 ids)"

    @pytest.mark.parametrize("order", [[0], [0, 0, 1], [0, 1, 1, 1], [0, 1, 2]])
    def test_an_order_that_does_not_fit_the_runs_is_refused(self, order: list[int]) -> None:
        with pytest.raises(
            ValueError, match="order must name each run once for each of its records"
        ):
            RecordIds([(1, 5, 1), (2, 5, 2)], order)

    def test_an_index_must_be_an_integer(self) -> None:
        with pytest.raises(TypeError):
            RecordIds([(1, 5, 1)])["0"]  # type: ignore[call-overload]


def test_doubles_are_little_endian_on_the_wire() -> None:
    assert struct_bytes(Record({"k": 1.5})) == b"\x0a\x0e\x0a\x01k\x12\x09\x11" + struct.pack(
        "<d", 1.5
    )
