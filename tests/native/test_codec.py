"""The codec of block bodies in C, against protobuf's own parser.

Two oracles are built here from descriptors. ``Batch`` is HStreamDB's message. ``LooseBatch`` has
bytes in place of its strings and a repeated entry in place of its map: it accepts what is well
formed on the wire, whether or not it is UTF-8, which is what the codec promises too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import example, given, strategies as st

from hstreamlite._native import ffi, lib

Field = descriptor_pb2.FieldDescriptorProto


def messages() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="hstream_batch.proto", package="hstream", syntax="proto3"
    )

    def add(parent: Any, name: str, *fields: tuple[str, int, int, bool, str]) -> Any:
        message = parent.add(name=name)
        for field_name, number, kind, repeated, type_name in fields:
            message.field.add(
                name=field_name,
                number=number,
                type=kind,
                label=Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL,
                type_name=type_name or None,
            )
        return message

    for prefix, text in (("", Field.TYPE_STRING), ("Loose", Field.TYPE_BYTES)):
        entry = "AttributesEntry" if prefix else "Header.AttributesEntry"
        header = add(
            file.message_type,
            f"{prefix}Header",
            ("flag", 1, Field.TYPE_ENUM, False, ".hstream.Flag"),
            ("attributes", 2, Field.TYPE_MESSAGE, True, f".hstream.{entry}"),
            ("key", 3, text, False, ""),
        )
        add(
            file.message_type if prefix else header.nested_type,
            "AttributesEntry",
            ("key", 1, text, False, ""),
            ("value", 2, text, False, ""),
        )
        if not prefix:
            header.nested_type[0].options.map_entry = True
        add(
            file.message_type,
            f"{prefix}Record",
            ("header", 1, Field.TYPE_MESSAGE, False, f".hstream.{prefix}Header"),
            ("payload", 2, Field.TYPE_BYTES, False, ""),
        )
        add(
            file.message_type,
            f"{prefix}Batch",
            ("records", 1, Field.TYPE_MESSAGE, True, f".hstream.{prefix}Record"),
        )
    flag = file.enum_type.add(name="Flag")
    flag.value.add(name="JSON", number=0)
    flag.value.add(name="RAW", number=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    batch, loose = (pool.FindMessageTypeByName(f"hstream.{n}") for n in ("Batch", "LooseBatch"))
    return message_factory.GetMessageClass(batch), message_factory.GetMessageClass(loose)


Batch, LooseBatch = messages()


class Plain(NamedTuple):
    """A record as both sides see it."""

    payload: bytes
    key: bytes
    attributes: tuple[tuple[bytes, bytes], ...]
    raw: bool


def exact_buffer(data: bytes) -> Any:
    """Memory of the very length, so that a sanitizer sees the first byte read beyond it."""
    return ffi.new("uint8_t[]", data) if data else ffi.new("uint8_t[1]")


def attributes_of(ref: Any) -> tuple[tuple[bytes, bytes], ...]:
    walk, attr, found = ffi.new("struct hsl_attr_walk *"), ffi.new("struct hsl_attr *"), []
    lib.hsl_attr_begin(walk, ref)
    while (got := lib.hsl_attr_next(walk, attr)) > 0:
        found.append(
            (
                bytes(ffi.buffer(attr.name, attr.name_len)),
                bytes(ffi.buffer(attr.value, attr.value_len)),
            )
        )
    assert got == 0
    return tuple(found)


def plain_of(ref: Any) -> Plain:
    return Plain(
        bytes(ffi.buffer(ref.payload, ref.payload_len)),
        bytes(ffi.buffer(ref.key, ref.key_len)),
        attributes_of(ref),
        bool(ref.raw),
    )


def decode_with(body: bytes, visit: Callable[[Any], Any]) -> list[Any] | None:
    """What visit makes of each record; None if the body is malformed."""
    memory = exact_buffer(body)
    pos, end = ffi.new("const uint8_t **", memory), memory + len(body)
    ref, found = ffi.new("struct hsl_record_ref *"), []
    while (got := lib.hsl_codec_next(pos, end, ref)) > 0:
        found.append(visit(ref))
    return found if got == 0 else None


def decode(body: bytes) -> list[Plain] | None:
    return decode_with(body, plain_of)


def encode_ref(ref: Any) -> bytes:
    size = lib.hsl_codec_size(ref)
    out = ffi.new("uint8_t[]", size)
    assert lib.hsl_codec_encode(out, ref) - out == size
    return bytes(ffi.buffer(out))


def encode_attributes(attributes: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(
        b"\x12" + varint(len(entry)) + entry
        for entry in (
            b"\x0a" + varint(len(name)) + name + b"\x12" + varint(len(value)) + value
            for name, value in attributes
        )
    )


def encode(record: Plain) -> bytes:
    attrs = encode_attributes(record.attributes)
    buffers = [exact_buffer(part) for part in (record.payload, record.key, attrs)]
    ref = ffi.new(
        "struct hsl_record_ref *",
        {
            "payload": buffers[0],
            "payload_len": len(record.payload),
            "key": buffers[1],
            "key_len": len(record.key),
            "attrs": buffers[2],
            "attrs_len": len(attrs),
            "raw": record.raw,
        },
    )
    return encode_ref(ref)


def oracle_decode(body: bytes) -> list[Plain] | None:
    try:
        batch = LooseBatch.FromString(body)
    except DecodeError:
        return None
    return [
        Plain(
            r.payload,
            r.header.key,
            tuple((a.key, a.value) for a in r.header.attributes),
            r.header.flag != 0,
        )
        for r in batch.records
    ]


def varint(value: int, padding: int = 0) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    if padding:
        out[-1] |= 0x80
        out += b"\x80" * (padding - 1) + b"\x00"
    return bytes(out)


texts = st.text(max_size=20)
raws = st.booleans()
wire_texts = texts.map(str.encode)
plain_records = st.builds(
    Plain,
    st.binary(max_size=300),
    wire_texts,
    st.dictionaries(wire_texts, wire_texts, max_size=3).map(lambda d: tuple(d.items())),
    raws,
)


@st.composite
def fields(draw: st.DrawFn, content: dict[int, st.SearchStrategy[bytes]]) -> bytes:
    """A message of length-delimited fields in any order and number, among fields it has not."""
    parts = []
    for number in draw(st.lists(st.sampled_from([*content, 0, 0]), max_size=6)):
        if number:
            data = draw(content[number])
            padding = draw(st.sampled_from([0, 0, 0, 1, 2]))
            parts.append(varint(number << 3 | 2, padding) + varint(len(data), padding) + data)
        else:
            parts.append(draw(unknown_fields))
    return b"".join(parts)


unknown_fields = st.one_of(
    st.builds(
        lambda n, v: varint(n << 3) + varint(v),
        st.integers(4, 2**29 - 1),
        st.integers(0, 2**64 - 1),
    ),
    st.builds(
        lambda n, v: varint(n << 3 | 2) + varint(len(v)) + v,
        st.integers(4, 99),
        st.binary(max_size=5),
    ),
    st.builds(
        lambda n, v: varint(n << 3 | 5) + v, st.integers(1, 99), st.binary(min_size=4, max_size=4)
    ),
    st.builds(
        lambda n, v: varint(n << 3 | 1) + v, st.integers(1, 99), st.binary(min_size=8, max_size=8)
    ),
    st.builds(
        lambda n, v: varint(n << 3 | 3) + b"\x08" + varint(v) + varint(n << 3 | 4),
        st.integers(1, 99),
        st.integers(0, 300),
    ),
)
flags = st.builds(
    lambda v, p: b"\x08" + varint(v, p),
    st.sampled_from([0, 1, 1, 2, 2**32, 2**49]),
    st.integers(0, 2),
)
entries = fields({1: wire_texts, 2: wire_texts})
headers = st.lists(st.one_of(flags, fields({2: entries, 3: wire_texts})), max_size=3).map(b"".join)
bodies = fields({1: fields({1: headers, 2: st.binary(max_size=20)})})


@given(plain_records)
@example(Plain(b"", b"", (), False))
@example(Plain(b"x" * 127, b"", (), True))
@example(Plain(b"x" * 2**21, b"k" * 128, ((b"", b""),), True))
def test_encoding_is_what_protobuf_writes(record: Plain) -> None:
    batch = Batch()
    theirs = batch.records.add(payload=record.payload)
    theirs.header.flag = int(record.raw)
    theirs.header.key = record.key.decode()
    for name, value in record.attributes:
        theirs.header.attributes[name.decode()] = value.decode()
    ours = encode(record)
    assert Batch.FromString(ours) == batch
    assert len(ours) == batch.ByteSize()
    if len(record.attributes) <= 1:
        assert ours == batch.SerializeToString()


@given(st.lists(plain_records, max_size=5))
def test_batches_of_protobuf_are_decoded(records: list[Plain]) -> None:
    batch = Batch()
    for record in records:
        theirs = batch.records.add(payload=record.payload)
        theirs.header.flag = int(record.raw)
        theirs.header.key = record.key.decode()
        theirs.header.attributes.update({n.decode(): v.decode() for n, v in record.attributes})
    decoded = decode(batch.SerializeToString())
    assert decoded is not None
    assert [r._replace(attributes=tuple(sorted(r.attributes))) for r in decoded] == [
        r._replace(attributes=tuple(sorted(r.attributes))) for r in records
    ]


@given(st.lists(plain_records, max_size=5))
def test_decoding_inverts_encoding(records: list[Plain]) -> None:
    body = b"".join(encode(r) for r in records)
    assert decode(body) == records
    assert lib.hsl_codec_count(exact_buffer(body), len(body)) == len(records)


@given(
    st.lists(st.one_of(st.binary(max_size=20), st.integers(100, 300).map(bytes)), max_size=8),
    st.one_of(st.just(b""), st.binary(max_size=200)),
)
@example([bytes(121), bytes(122), bytes(127), bytes(128), bytes(16_400), b""], b"")
def test_a_run_of_payloads_is_encoded_as_one_by_one(payloads: list[bytes], key: bytes) -> None:
    expected = [encode(Plain(payload, key, (), raw=True)) for payload in payloads]
    run = ffi.new("struct hsl_payload[]", len(payloads) + 1)
    kept = [exact_buffer(payload) for payload in payloads]
    for slot, memory, payload in zip(run, kept, payloads, strict=False):
        slot.data, slot.len = memory, len(payload)
    largest = ffi.new("size_t *")
    size = lib.hsl_codec_run_size(run, len(payloads), len(key), largest)
    assert size == sum(map(len, expected))
    assert largest[0] == max(map(len, expected), default=0)
    out = ffi.new("uint8_t[]", size or 1)
    end = lib.hsl_codec_encode_run(out, run, len(payloads), exact_buffer(key), len(key))
    assert end - out == size
    assert bytes(ffi.buffer(out, size)) == b"".join(expected)


@given(bodies)
def test_any_order_repetition_and_unknown_field_reads_as_protobuf_reads_it(body: bytes) -> None:
    expected = oracle_decode(body)
    assert expected is not None
    assert decode(body) == expected
    assert lib.hsl_codec_count(exact_buffer(body), len(body)) == len(expected)


@given(bodies)
def test_a_decoded_record_encodes_to_an_equal_one(body: bytes) -> None:
    rewritten = decode_with(body, encode_ref)
    assert rewritten is not None
    assert decode(b"".join(rewritten)) == decode(body)


@given(st.binary(max_size=60))
@example(b"\x0a\x80")
@example(b"\x0a\xff\xff\xff\xff\x07")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a\x80\x80\x80\x80\x80\x00")
@example(b"\x8a\x80\x80\x80\x80\x00\x00")
@example(b"\x00\x00")
@example(b"\x0b\x0c\x14")
@example(b"\x0b" * 200)
@example(b"\x18" + b"\xff" * 9 + b"\x02")
@example(b"\xfa\xff\xff\xff\x0f\x00")
@example(b"\xfa\xff\xff\xff\x1f\x00")
def test_arbitrary_bytes_are_accepted_exactly_when_protobuf_accepts_them(body: bytes) -> None:
    assert decode(body) == oracle_decode(body)


@given(bodies, st.data())
def test_damage_is_judged_as_protobuf_judges_it(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    assert decode(bytes(damaged)) == oracle_decode(bytes(damaged))


def nested_groups(depth: int) -> bytes:
    return b"\x1b" * depth + b"\x1c" * depth


def test_groups_are_stepped_over_up_to_a_depth() -> None:
    assert decode(nested_groups(32)) == []
    assert decode(nested_groups(33)) is None


def test_every_prefix_of_a_body_ends_or_is_malformed() -> None:
    records = [Plain(b"payload", b"key", ((b"a", b"b"),), True)] * 3
    starts = [0]
    for record in records:
        starts.append(starts[-1] + len(encode(record)))
    body = b"".join(map(encode, records))
    for cut in range(len(body) + 1):
        decoded = decode(body[:cut])
        assert decoded == (records[: starts.index(cut)] if cut in starts else None)


@pytest.mark.parametrize(("n", "got", "left"), [(0, 1, 3), (2, 1, 1), (3, 1, 0), (4, 0, 0)])
def test_skip_stops_behind_the_last_record_there_is(n: int, got: int, left: int) -> None:
    body = b"".join(encode(Plain(bytes([i]), b"", (), True)) for i in range(3))
    memory = exact_buffer(body)
    pos = ffi.new("const uint8_t **", memory)
    assert lib.hsl_codec_skip(pos, memory + len(body), n) == got
    rest = bytes(ffi.buffer(pos[0], memory + len(body) - pos[0]))
    decoded = decode(rest)
    assert decoded is not None
    assert len(decoded) == left


def test_skip_reports_malformed_framing() -> None:
    memory = exact_buffer(b"\x0a\x05")
    assert lib.hsl_codec_skip(ffi.new("const uint8_t **", memory), memory + 2, 1) == -1


def test_a_raw_record_without_key_costs_eight_bytes() -> None:
    assert len(encode(Plain(b"x" * 100, b"", (), True))) == 108


def key_hash(key: bytes, seed: int = 7) -> int:
    return int(lib.hsl_codec_key_hash(exact_buffer(key), len(key), seed))


@given(st.binary(max_size=70))
def test_only_the_empty_key_hashes_to_zero(key: bytes) -> None:
    assert (key_hash(key) == 0) == (key == b"")
    assert key_hash(key) == key_hash(bytes(key))


@given(st.binary(min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_key_hash_depends_on_all_of_its_seed(key: bytes, seed: int) -> None:
    others = {key_hash(key, seed ^ (1 << bit)) for bit in range(64)}
    assert len(others | {key_hash(key, seed)}) == 65


def test_no_keys_have_equal_hashes_whatever_the_seed() -> None:
    """Of what is combined by multiplication, a factor that is zero hides the other."""
    factors = (0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3)
    keys = [factor.to_bytes(8, "little") + b"%08d" % n for factor in factors for n in range(99)]
    keys += [b"%08d" % n + factor.to_bytes(8, "little") for factor in factors for n in range(99)]
    for seed in (1, 2**63, 0x0123456789ABCDEF):
        assert len({key_hash(key, seed) for key in keys}) == len(keys)


def test_key_hash_separates_similar_keys() -> None:
    keys = [b"customer-%d" % i for i in range(50_000)]
    keys += [b"\0" * n for n in range(1, 200)]
    hashes = [key_hash(key) for key in keys]
    assert len(set(hashes)) == len(keys)
    for shift in (0, 20, 50):
        buckets = [0] * 1024
        for value in hashes:
            buckets[value >> shift & 1023] += 1
        assert max(buckets) < 1.7 * len(keys) / 1024


def test_each_bit_of_a_key_changes_half_of_its_hash() -> None:
    rng = random.Random(1)
    for length in (1, 4, 8, 9, 16, 17, 33):
        flips = []
        for _ in range(200):
            key = bytearray(rng.randbytes(length))
            before = key_hash(bytes(key))
            key[rng.randrange(length)] ^= 1 << rng.randrange(8)
            flips.append((before ^ key_hash(bytes(key))).bit_count())
        assert 28 < sum(flips) / len(flips) < 36
