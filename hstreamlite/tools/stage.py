"""What the mapped stage of a store holds that its segments may lack.

Only opening a sound store brings that into the log: whether it continues the log cannot be told
where records of the log are lost. So whoever reads a damaged store is told of it instead.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from hstreamlite._native import ffi, lib
from hstreamlite.env import Env, OpenFlag
from hstreamlite.log.journal import SYSTEM

_PAGE = 4096
_HEADER = struct.Struct("<8sIHH16s16sQQQQ")
_ENTRY = struct.Struct("<IIQII")
_BLOCK = struct.Struct("<HBBIQQQIIIHHQ")
_TAIL = 2048
_ENTRY_MAGIC = 0x544E4548


class Unread(NamedTuple):
    """What a sentence says of STAGE; `counts` if a sound store may bring records in from there."""

    sentence: str
    counts: bool = True


def unread_stage(env: Env, path: str, uuid: bytes | None, ends: Mapping[int, int]) -> Unread | None:
    """Return what is to be said of records that lie only in STAGE; None if there are none.

    `ends` has the LSN behind the last one that the segments hold of each log.
    """
    file = f"{path}/STAGE"
    if not env.files.exists(file):
        return None
    try:
        size, page = _first_page(env, file)
        if not any(page):
            return None
        return _told(env, file, page, size, uuid, ends)
    except OSError as error:
        return Unread(
            f"{file} cannot be read: {error.strerror}; appends at level 'os' may lie only there"
        )
    except struct.error:
        return Unread(f"{file} holds an entry that cannot be read, under a valid checksum")


def _first_page(env: Env, file: str) -> tuple[int, bytes]:
    handle = env.files.open(file, OpenFlag.READ)
    try:
        return env.files.size(handle), env.files.pread(handle, _PAGE, 0)
    finally:
        env.files.close(handle)


def _told(
    env: Env, file: str, page: bytes, size: int, uuid: bytes | None, ends: Mapping[int, int]
) -> Unread | None:
    magic, own, major, _, owner, boot, epoch, capacity, _, _ = _HEADER.unpack(
        page[: _HEADER.size].ljust(_HEADER.size, b"\0")
    )
    whole = (magic, own, major, capacity) == (
        b"HSLSTAGE",
        _crc(0, page[12 : _HEADER.size]),
        1,
        size - _PAGE,
    )
    if not whole or (uuid is not None and owner != uuid):
        return Unread(
            f"{file} does not verify: appends at level 'os' that lay only there are lost",
            counts=False,
        )
    records = _records(env.files.read_all(file), epoch, capacity, ends)
    if not records:
        return None
    held = f"{file} holds {records} records of level 'os' or weaker that the segments lack"
    if boot != env.files.boot_id():
        return Unread(
            f"{held}; the machine has booted since, so they do not count, and were not read",
            counts=False,
        )
    return Unread(f"{held}; they were not read: opening the store brings them in, if it is sound")


def _records(data: bytes, epoch: int, capacity: int, ends: Mapping[int, int]) -> int:
    """Count what the segments lack of the entries that verify."""
    (at,) = struct.unpack_from("<Q", data, _TAIL)
    seed = epoch * 0x9E3779B1 % (1 << 32)
    limit, records = at + capacity, 0
    while at < limit:
        left = capacity - at % capacity
        if left < _ENTRY.size:
            at += left
            continue
        start = _PAGE + at % capacity
        magic, own, position, length, blocks = _ENTRY.unpack_from(data, start)
        size = _ENTRY.size + (length + 7 & ~7 if blocks else length)
        if magic != _ENTRY_MAGIC or position != at or size > left:
            break
        if own != _crc(seed, data[start + 8 : start + _ENTRY.size + (length if blocks else 0)]):
            break
        records += _lacking(data, start + _ENTRY.size, blocks, ends)
        at += size
    return records


def _lacking(data: bytes, at: int, blocks: int, ends: Mapping[int, int]) -> int:
    lacking = 0
    for _ in range(blocks):
        _, _, _, _, shard, seq, _, size, _, records, *_ = _BLOCK.unpack_from(data, at)
        lacking += records if shard < SYSTEM and seq >= ends.get(shard, 1) else 0
        at += _BLOCK.size + (size + 7 & ~7)
    return lacking


def _crc(seed: int, data: bytes) -> int:
    return int(lib.hsl_crc32c(seed, ffi.from_buffer(data), len(data)))
