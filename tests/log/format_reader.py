"""A reader of on-disk format version 1, written from log/FORMAT.md and from nothing else.

It shares no code with the package: CRCs come from google-crc32c, JSON records from protobuf. It is
strict where the store is lazy: it checks every CRC of every structure it meets, walks the frames of
sealed segments too, and compares each index with the blocks it lists.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import google_crc32c
from google.protobuf import json_format, struct_pb2

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGE = 4096
SYSTEM = 1 << 63
CATALOG, PROGRESS, PRODUCERS = SYSTEM, SYSTEM + 1, SYSTEM + 2

SUPER = struct.Struct("<8sIHHIIQ16sQQQQQ3QQ")
SEGMENT = struct.Struct("<6sBBII16sQQQQQIHHQQ")
COVER = struct.Struct("<QQQQIIQII")
FRAME = struct.Struct("<IIQIIIIIIQQII")
BLOCK = struct.Struct("<HBBIQQQIIIHHQ")
TRAILER = struct.Struct("<8sIHHQQIIIIQQQQQII")
CHECKPOINT = struct.Struct("<QIIQII")
STAGE = struct.Struct("<8sIHH16s16sQQQQ")
ENTRY = struct.Struct("<IIQII")

FLAG_CHECKPOINT = 2
FLAG_CONTINUED = 1


class FormatError(Exception):
    """The bytes are not what FORMAT.md says."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise FormatError(what)


def crc(data: bytes, seed: int = 0) -> int:
    return google_crc32c.extend(seed, data)  # type: ignore[no-any-return]


def align(value: int, unit: int) -> int:
    return -(-value // unit) * unit


class Super(NamedTuple):
    magic: bytes
    crc: int
    major: int
    minor: int
    required: int
    zero: int
    sequence: int
    uuid: bytes
    epoch: int
    first_segment: int
    last_segment: int
    durable: int
    checkpoint: int
    catalog: int
    progress: int
    producers: int
    flags: int


class SegmentHeader(NamedTuple):
    magic: bytes
    major: int
    minor: int
    crc: int
    required: int
    uuid: bytes
    number: int
    uid: int
    epoch: int
    pred_uid: int
    pred_end: int
    pred_crc: int
    level: int
    retention_class: int
    created_ms: int
    capacity: int


class Cover(NamedTuple):
    first: int
    last: int
    last_uid: int
    last_end: int
    last_crc: int
    end_crc: int
    end: int
    frames: int
    zero: int


class Frame(NamedTuple):
    magic: int
    crc: int
    uid: int
    page: int
    number: int
    body_len: int
    blocks: int
    body_crc: int
    chain: int
    durable: int
    epoch: int
    flags: int
    zero: int


@dataclass(frozen=True, order=True)
class Row:
    """What an index says of a block."""

    shard: int
    seq: int
    order: int
    time_ms: int
    off8: int
    length: int
    records: int


@dataclass(frozen=True)
class Block:
    shard: int
    seq: int
    time_ms: int
    count: int
    order: int
    codec: int
    flags: int
    decoded_len: int
    payload: bytes

    def body(self) -> bytes:
        if self.codec == 0:
            return self.payload
        if self.codec == 1:
            return zlib.decompress(self.payload, wbits=31)
        need(self.codec == 2, f"codec {self.codec}")
        return bytes(zstd.decompress(self.payload))


@dataclass
class Segment:
    number: int
    header: SegmentHeader
    frames: list[Frame]
    blocks: list[tuple[Row, Block]]
    end: int
    last_crc: int
    sealed: bool
    cover: Cover
    discarded: int = 0


@dataclass(frozen=True)
class Entry:
    """One record of a stream."""

    shard: int
    batch: int
    index: int
    time_ms: int
    order: int
    key: str
    attributes: dict[str, str]
    raw: bool
    payload: bytes

    @property
    def id(self) -> str:
        return f"{self.shard}-{self.batch}-{self.index}"

    def json(self) -> Any:
        message = struct_pb2.Struct.FromString(self.payload)
        return json_format.MessageToDict(message)


@dataclass
class Store:
    super: Super
    segments: list[Segment]
    logs: dict[int, list[Block]] = field(default_factory=dict)

    def records(self, shard: int, first: int = 1) -> Iterator[Entry]:
        for block in self.logs.get(shard, ()):
            for entry in decode_block(block):
                if entry.batch + entry.index >= first:
                    yield entry


# ---- superblock ----


def read_super(data: bytes) -> Super:
    valid = []
    for at in (0, PAGE):
        page = data[at : at + PAGE]
        if len(page) < PAGE:
            continue
        slot = Super(*SUPER.unpack_from(page))
        if slot.magic == b"HSLSUPER" and slot.crc == crc(page[12:]):
            need(slot.major == 1 and slot.required == 0, "a superblock of another format")
            need(slot.sequence % 2 == at // PAGE, "slot of a superblock")
            valid.append(slot)
    need(bool(valid), "no valid superblock slot")
    return max(valid, key=lambda slot: slot.sequence)


# ---- indexes ----


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def read_index(data: bytes, rows_len: int, shards: int, blocks: int) -> list[Row]:
    rows: list[Row] = []
    at, begin, shard = rows_len, 0, 0
    for number in range(shards):
        step, at = varint(data, at)
        need(number == 0 or step > 0, "directory out of order")
        shard += step
        first, at = varint(data, at)
        records, at = varint(data, at)
        count, at = varint(data, at)
        size, at = varint(data, at)
        last_time, at = varint(data, at)
        length, at = varint(data, at)
        own = list(read_rows(data, begin, shard, first, count))
        begin += length
        need(sum(r.records for r in own) == records, "records of a directory entry")
        need(sum(r.length for r in own) == size, "bytes of a directory entry")
        need(own[-1].time_ms == last_time, "last time of a directory entry")
        rows += own
    need((at, begin, len(rows)) == (len(data), rows_len, blocks), "size of an index")
    return rows


def read_rows(data: bytes, at: int, shard: int, seq: int, count: int) -> Iterator[Row]:
    groups = -(-count // 64)
    table = []
    if groups > 1:
        table = list(struct.unpack_from(f"<{groups}I", data, at))
        at += 4 * groups
    start = at
    off8 = time_ms = order = 0
    for i in range(count):
        if i % 64 == 0:
            need(not table or at == start + table[i // 64], "table of groups")
            group_seq, at = varint(data, at)
            need(group_seq == seq, "first sequence of a group")
            off8 = time_ms = order = 0
        step, at = varint(data, at)
        off8 += step
        step, at = varint(data, at)
        time_ms += step
        step, at = varint(data, at)
        order += step
        length, at = varint(data, at)
        records, at = varint(data, at)
        yield Row(shard, seq, order, time_ms, off8, length, records)
        seq += records


def read_footer(data: bytes, uid: int) -> tuple[list[Row], int, int, int] | None:
    """Return rows, end of the frames, last CRC and number of frames; None without a footer."""
    if len(data) < 2 * PAGE or len(data) % PAGE:
        return None
    raw = data[-TRAILER.size :]
    fields = TRAILER.unpack(raw)
    magic, own, version, flags, off, rows_len, dir_len, dir_crc, blocks, shards = fields[:10]
    if magic != b"HSLFOOT1":
        return None
    seed = uid & 0xFFFFFFFF
    need(own == crc(raw[12:], seed) and version == 1 and flags == 0, "trailer")
    pieces = -(-rows_len // 16384)
    end = off + rows_len + dir_len + 4 * pieces
    need(align(end + TRAILER.size, PAGE) == len(data), "length of a footer")
    need(dir_crc == crc(data[off + rows_len : end], seed), "directory")
    stored = struct.unpack_from(f"<{pieces}I", data, end - 4 * pieces)
    for number, expected in enumerate(stored):
        begin = off + number * 16384
        piece = data[begin : min(begin + 16384, off + rows_len)]
        need(crc(piece, seed) == expected, "piece of a footer")
    rows = read_index(data[off : off + rows_len + dir_len], rows_len, shards, blocks)
    none = (1 << 64) - 1
    times, orders = [r.time_ms for r in rows], [r.order for r in rows]
    need(fields[10:12] == (min(times, default=none), max(times, default=0)), "times")
    need(fields[12:14] == (min(orders, default=none), max(orders, default=0)), "orders")
    need(fields[14] == sum(r.length for r in rows), "bytes")
    return rows, off, fields[15], fields[16]


# ---- segments ----


def read_block(data: bytes, at: int, end: int) -> tuple[Row, Block, int] | None:
    if end - at < BLOCK.size:
        return None
    magic, version, codec, own, shard, seq, time_ms, size, decoded, count, flags, ext, order = (
        BLOCK.unpack_from(data, at)
    )
    length = BLOCK.size + ext + size
    if magic != 0x4248 or version != 1 or count == 0 or align(length, 8) > end - at:
        return None
    if own != crc(data[at + 8 : at + length]):
        return None
    payload = data[at + BLOCK.size + ext : at + length]
    block = Block(shard, seq, time_ms, count, order, codec, flags, decoded, payload)
    row = Row(shard, seq, order, time_ms, at // 8, length, count)
    return row, block, at + align(length, 8)


def read_frame(
    data: bytes,
    at: int,
    header: SegmentHeader,
    number: int,
    chain: int,
    next_seq: dict[int, int],
    *,
    holes: bool = False,
) -> tuple[Frame, list[tuple[Row, Block]]] | None:
    """Return the frame at an offset if it is valid."""
    if at + PAGE > len(data):
        return None
    frame = Frame(*FRAME.unpack_from(data, at))
    if (
        frame.magic != 0x4D524648
        or frame.crc != crc(data[at + 8 : at + 64])
        or frame.uid != header.uid
        or frame.page != at // PAGE
        or frame.epoch != header.epoch
        or frame.number != number
        or frame.chain != chain
    ):
        return None
    start, end = at + 64, at + 64 + frame.body_len
    if frame.body_len > 40 << 20 or align(end, PAGE) > len(data):
        return None
    if frame.flags & FLAG_CHECKPOINT:
        return (frame, []) if frame.body_crc == crc(data[start:end]) else None
    blocks: list[tuple[Row, Block]] = []
    crcs = b""
    nexts: dict[int, int] = {}
    while start < end:
        found = read_block(data, start, end)
        if found is None:
            return None
        row, block, after = found
        expected = nexts.get(block.shard, next_seq.get(block.shard))
        if expected is not None and not (block.seq == expected or (holes and block.seq > expected)):
            return None
        nexts[block.shard] = block.seq + block.count
        blocks.append((row, block))
        crcs += data[start + 4 : start + 8]
        start = after
    if len(blocks) != frame.blocks or frame.body_crc != crc(crcs):
        return None
    next_seq.update(nexts)
    return frame, blocks


def read_segment(
    name: str, data: bytes, uuid: bytes, next_seq: dict[int, int], *, holes: bool = False
) -> Segment:
    header = SegmentHeader(*SEGMENT.unpack_from(data))
    need(header.magic == b"HSLSEG", f"{name}: magic")
    need(header.crc == crc(data[12:PAGE]), f"{name}: CRC of the header")
    need(header.major == 1 and header.required == 0, f"{name}: version")
    need(header.uuid == uuid, f"{name}: store")
    need(f"{header.number:016x}.seg" == name, f"{name}: number")
    level = header.number >> 31
    need(header.level == level and level < 2 and header.retention_class == 0, f"{name}: level")
    footer = read_footer(data, header.uid)
    limit = footer[1] if footer else len(data)
    frames: list[Frame] = []
    blocks: list[tuple[Row, Block]] = []
    at, chain, marked, previous = PAGE, 0 if level else header.crc, 0, 0
    while at < limit:
        found = read_frame(data, at, header, len(frames) + 1, chain, next_seq, holes=holes)
        if found is None:
            break
        frame, added = found
        if frame.flags & FLAG_CHECKPOINT:
            marked, previous = check_checkpoint(data, at, frame, blocks, marked, previous)
        frames.append(frame)
        blocks += added
        chain = frame.crc
        at += align(64 + frame.body_len, PAGE)
    if level:
        cover = Cover(*COVER.unpack_from(data, 96))
        need((at, chain, len(frames)) == (cover.end, cover.end_crc, cover.frames), f"{name}: end")
        order = [(block.shard, block.seq) for _, block in blocks]
        need(order == sorted(order), f"{name}: order of blocks")
    else:
        cover = Cover(header.number, header.number, header.uid, at, chain, 0, 0, 0, 0)
    sealed = footer is not None
    segment = Segment(header.number, header, frames, blocks, at, chain, sealed, cover)
    if footer:
        rows, end, last_crc, count = footer
        need((at, chain, len(frames)) == (end, last_crc, count), f"{name}: frames of the footer")
        need(sorted(rows) == sorted(row for row, _ in blocks), f"{name}: rows of the footer")
    else:
        segment.discarded = len(data) - at
    return segment


def check_checkpoint(
    data: bytes,
    at: int,
    frame: Frame,
    blocks: list[tuple[Row, Block]],
    marked: int,
    previous: int,
) -> tuple[int, int]:
    """Compare a checkpoint with the blocks since the one before; return what the next goes on."""
    body = data[at + 64 : at + 64 + frame.body_len]
    before, count, shards, blocks_before, rows_len, dir_len = CHECKPOINT.unpack_from(body)
    need(before == previous and blocks_before == marked, "chain of checkpoints")
    need(rows_len + dir_len == len(body) - CHECKPOINT.size, "length of a checkpoint")
    rows = read_index(body[CHECKPOINT.size :], rows_len, shards, count)
    need(sorted(rows) == sorted(row for row, _ in blocks[marked:]), "rows of a checkpoint")
    return len(blocks), at


# ---- mapped stage ----


def read_stage(data: bytes, uuid: bytes, boot: bytes) -> list[tuple[int, list[Block]]]:
    """Return the entries from the tail on as (position, blocks)."""
    header = STAGE.unpack_from(data)
    magic, own, major, _, owner, booted, epoch, capacity, _, _ = header
    valid = (
        magic == b"HSLSTAGE"
        and own == crc(data[12:80])
        and (major, owner, booted) == (1, uuid, boot)
        and capacity == len(data) - PAGE
    )
    if not valid:
        return []
    (position,) = struct.unpack_from("<Q", data, 2048)
    limit = position + capacity
    seed = epoch * 0x9E3779B1 % 2**32
    entries = []
    while position < limit:
        left = capacity - position % capacity
        if left < ENTRY.size:
            position += left
            continue
        at = PAGE + position % capacity
        magic, own, pos, length, blocks = ENTRY.unpack_from(data, at)
        size = ENTRY.size + (align(length, 8) if blocks else length)
        covered = ENTRY.size + (length if blocks else 0)
        if magic != 0x544E4548 or pos != position or size > left:
            break
        if own != crc(data[at + 8 : at + covered], seed):
            break
        if blocks:
            entries.append((position, stage_blocks(data, at + ENTRY.size, blocks)))
        position += size
    return entries


def stage_blocks(data: bytes, at: int, count: int) -> list[Block]:
    """Blocks of an entry carry no CRC of their own."""
    found = []
    for _ in range(count):
        magic, version, codec, _, shard, seq, time_ms, size, decoded, records, flags, ext, order = (
            BLOCK.unpack_from(data, at)
        )
        need((magic, version, ext) == (0x4248, 1, 0), "block of a stage entry")
        payload = data[at + BLOCK.size : at + BLOCK.size + size]
        found.append(Block(shard, seq, time_ms, records, order, codec, flags, decoded, payload))
        at += align(BLOCK.size + size, 8)
    return found


# ---- the whole ----


def level_1(name: str) -> bool:
    return int(name.removeprefix("segments/").removesuffix(".seg"), 16) >= 1 << 31


def range_of(name: str, data: bytes) -> tuple[int, int]:
    """Return the segments of level 0 for which a file stands."""
    if not level_1(name):
        number = int(name.removeprefix("segments/").removesuffix(".seg"), 16)
        return number, number
    cover = Cover(*COVER.unpack_from(data, 96))
    return cover.first, cover.last


def counting(files: Mapping[str, bytes]) -> list[str]:
    """Return the names of the segments that no other replaces, in order."""
    ranges = {
        name: range_of(name, data)
        for name, data in files.items()
        if name.startswith("segments/") and name.endswith(".seg")
    }
    names = [
        name
        for name, (first, last) in ranges.items()
        if not any(
            other > name and a <= first and last <= b and level_1(other)
            for other, (a, b) in ranges.items()
        )
    ]
    names.sort(key=lambda name: ranges[name])
    for name, other in pairwise(names):
        need(ranges[name][1] < ranges[other][0], f"{name} overlaps {other}")
    return names


def read_store(files: Mapping[str, bytes], boot: bytes = b"") -> Store:
    """Read the files of a store, named relative to its directory."""
    superblock = read_super(files["SUPER"])
    names = counting(files)
    next_seq: dict[int, int] = {}
    segments: list[Segment] = []
    holes, following = False, 1
    for name in names:
        data = files[name]
        first, last = range_of(name, data)
        holes |= first != following or first != last or level_1(name)
        following = last + 1
        segment = read_segment(
            name.removeprefix("segments/"), data, superblock.uuid, next_seq, holes=holes
        )
        if segments and segments[-1].cover.last + 1 == first:
            before, header = segments[-1].cover, segment.header
            stated = (header.pred_uid, header.pred_end, header.pred_crc)
            need(stated == (before.last_uid, before.last_end, before.last_crc), f"{name}: chain")
        need(segment.sealed or name == names[-1], f"{name}: not sealed")
        segments.append(segment)
    newest = segments[-1].cover.last if segments else 0
    need(superblock.last_segment <= newest, "the newest segment is missing")
    if segments and not segments[-1].sealed:
        data = files[names[-1]]
        torn = data[-TRAILER.size :][:8] == b"HSLFOOT1"
        need(torn or len(data) >= segments[-1].header.capacity, "the newest segment is cut short")
    if segments:
        claims = [superblock.durable, *(frame.durable for frame in segments[-1].frames)]
        claimed = max((c & 0xFFFFFFFF for c in claims if c >> 32 == newest), default=0)
        need(claimed <= segments[-1].cover.last_end, "something durable is missing")
    store = Store(superblock, segments)
    for segment in segments:
        for _, block in segment.blocks:
            store.logs.setdefault(block.shard, []).append(block)
    if "STAGE" in files:
        replay(store, read_stage(files["STAGE"], superblock.uuid, boot), next_seq)
    return store


def replay(store: Store, entries: list[tuple[int, list[Block]]], next_seq: dict[int, int]) -> None:
    for _, blocks in entries:
        if blocks[0].seq > next_seq.get(blocks[0].shard, 1):
            return
        for block in blocks:
            if block.seq < next_seq.get(block.shard, 1):
                continue
            next_seq[block.shard] = block.seq + block.count
            log = store.logs.setdefault(block.shard, [])
            if block.flags & FLAG_CONTINUED:
                head = log.pop()
                whole = Block(
                    head.shard,
                    head.seq,
                    head.time_ms,
                    head.count + block.count,
                    head.order,
                    head.codec,
                    head.flags,
                    head.decoded_len + block.decoded_len,
                    head.payload + block.payload,
                )
            else:
                whole = block
            log.append(whole)


# ---- records ----


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        value, at = varint(data, at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + value]
            at += value
        else:
            need(tag & 7 == 0, "type of a field")
            yield tag >> 3, value


def decode_block(block: Block) -> list[Entry]:
    body = block.body()
    need(block.decoded_len in (0, len(body)), "decoded length")
    entries = []
    for index, (number, record) in enumerate(fields(body)):
        need(number == 1, "field of a batch")
        parts = dict(fields(record))
        raw, key, attributes = False, "", {}
        for field_number, value in fields(parts.get(1, b"")):
            if field_number == 1:
                raw = value != 0
            elif field_number == 2:
                pair = dict(fields(value))
                attributes[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
            elif field_number == 3:
                key = value.decode()
        entries.append(
            Entry(
                block.shard,
                block.seq,
                index,
                block.time_ms,
                block.order,
                key,
                attributes,
                raw,
                parts.get(2, b""),
            )
        )
    need(len(entries) == block.count, "records of a block")
    return entries


# ---- system logs ----


@dataclass
class Stream:
    id: int
    name: str
    shards: list[int]
    archived: bool


@dataclass
class State:
    """What the system logs add up to."""

    streams: dict[int, Stream] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    trims: dict[int, int] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    known: int = 0
    lost: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    progress: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)
    producers: dict[tuple[int, str], int] = field(default_factory=dict)


def read_state(store: Store) -> State:
    state = State()
    for entry in store.records(CATALOG, store.super.catalog):
        apply_catalog(state, json.loads(entry.payload))
    check_holes(state, store)
    for entry in store.records(PROGRESS, store.super.progress):
        apply_progress(state, entry.payload)
    for entry in store.records(PRODUCERS, store.super.producers):
        (size,) = struct.unpack_from("<I", entry.payload)
        row = json.loads(entry.payload[4 : 4 + size])
        lsns = struct.unpack_from(f"<{len(row['parts'])}Q", entry.payload, 4 + size)
        need(4 + size + 8 * len(lsns) == len(entry.payload), "length of a producer's record")
        last = row["first"] + sum(count for _, count in row["parts"]) - 1
        name = (row["stream"], row["name"])
        state.producers[name] = max(last, state.producers.get(name, 0))
    return state


def check_holes(state: State, store: Store) -> None:
    """Every record from the trim on is there, or the catalog says that it is lost."""
    for shard in (shard for stream in state.streams.values() for shard in stream.shards):
        at = state.trims.get(shard, 1)
        for block in store.logs.get(shard, ()):
            for first, end in sorted(state.lost.get(shard, ())):
                at = end if first <= at < end else at
            need(block.seq <= at, f"records of log {shard} from {at} on")
            at = max(at, block.seq + block.count)


def apply_catalog(state: State, change: dict[str, Any]) -> None:
    op = change["op"]
    if op == "stream":
        stream = Stream(change["id"], change["name"], change["shard_ids"], change["archived"])
        state.streams[stream.id] = stream
    elif op == "delete_stream":
        if change["archive"]:
            state.streams[change["id"]].archived = True
        else:
            del state.streams[change["id"]]
    elif op == "subscription":
        state.subscriptions[change["name"]] = change
    elif op == "delete_subscription":
        del state.subscriptions[change["name"]]
    elif op == "trim":
        for shard, first in change["shards"]:
            state.trims[shard] = max(first, state.trims.get(shard, 1))
    elif op == "lost":
        for shard, first, end in change["shards"]:
            state.lost.setdefault(shard, []).append((first, end))
    elif op == "drop":
        state.live, state.known = set(change["live"]), change["known"]
    elif op == "logs":
        for shard, _, _, first in change["logs"]:
            state.trims[shard] = max(first, state.trims.get(shard, 1))
    elif op == "snapshot":
        state.streams.clear()
        state.subscriptions.clear()
        state.trims.clear()
        state.lost.clear()
        state.live, state.known = set(change["live"]), change["known"]
    else:
        need(op == "snapshot_end", f"catalog record {op}")


def apply_progress(state: State, payload: bytes) -> None:
    (subscription,) = struct.unpack_from("<Q", payload)
    shards = state.progress.setdefault(subscription, {})
    version, kind, zero, entries = struct.unpack_from("<BBII", payload, 8)
    need(version == 1 and kind in (0, 1) and zero == 0, "piece of progress")
    at = 18
    if kind == 1:
        shards.clear()
    for _ in range(entries):
        shard, flags, generation, _, low, end, runs, attempts = struct.unpack_from(
            "<QIIQQQII", payload, at
        )
        at += 48
        numbers = struct.unpack_from(f"<{2 * runs + 3 * attempts}I", payload, at)
        at += 4 * len(numbers)
        if flags & 1:
            shards[shard] = {"generation": generation, "low": low, "next": end, "acked": set()}
        kept = shards[shard]
        need(kept["generation"] == generation, "generation of progress")
        kept["low"], kept["next"] = max(low, kept["low"]), max(end, kept["next"])
        for first, last in zip(numbers[: 2 * runs : 2], numbers[1 : 2 * runs : 2], strict=True):
            kept["acked"].update(range(low + first, low + last))
    need(at == len(payload), "length of a piece of progress")


def unacked(state: State, store: Store, name: str) -> list[str]:
    """Return the ids of the kept records that a subscription has still to see through."""
    subscription = state.subscriptions[name]
    stream = state.streams[subscription["stream_id"]]
    starts = dict(subscription["start"])
    progress = state.progress.get(subscription["id"], {})
    found = []
    for shard in stream.shards:
        kept = progress.get(shard, {"low": starts.get(shard, 1), "acked": set()})
        for entry in store.records(shard, state.trims.get(shard, 1)):
            lsn = entry.batch + entry.index
            if lsn >= kept["low"] and lsn not in kept["acked"]:
                found.append(entry.id)
    return found
