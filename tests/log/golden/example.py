"""Prints the worked example of log/FORMAT.md: every structure of a store with one record.

python tests/log/golden/example.py
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv

ROOT = "/store"

SUPER = (
    "magic:8 crc:4 major:2 minor:2 required:4 zero:4 sequence:8 uuid:16 epoch:8 first_segment:8"
    " last_segment:8 durable:8 checkpoint:8 snapshot[0]:8 snapshot[1]:8 snapshot[2]:8 flags:8"
)
SEGMENT = (
    "magic:6 major:1 minor:1 crc:4 required:4 uuid:16 number:8 uid:8 epoch:8 pred_uid:8 pred_end:8"
    " pred_crc:4 level:2 retention_class:2 created_ms:8 capacity:8"
)
FRAME = (
    "magic:4 crc:4 uid:8 page:4 number:4 body_len:4 blocks:4 body_crc:4 chain:4 durable:8 epoch:8"
    " flags:4 zero:4"
)
BLOCK = (
    "magic:2 version:1 codec:1 crc:4 shard:8 seq:8 time_ms:8 payload_len:4 decoded_len:4 count:4"
    " flags:2 ext_len:2 order:8"
)


def tiny_store() -> dict[str, bytes]:
    """Return the files of a store that got one stream and one record before its process died."""
    env = SimEnv(seed=0, capacity=8 << 20)
    store = hs.open(ROOT, env=env, config=hs.StoreConfig(segment_bytes_min=64 << 10, tail_bytes=0))
    store.create_stream("s").append(b"hello", key="k")
    disk = env.process_crash().disk
    return {path.removeprefix(f"{ROOT}/"): disk.read_all(path) for path in disk.walk(ROOT)}


def dump(data: bytes, at: int, fields: str) -> Iterator[str]:
    for field in fields.split():
        name, _, size = field.partition(":")
        raw = data[at : at + int(size)]
        value = ""
        if name == "magic":
            value = f" {bytes(b for b in raw if b < 128).decode()!r}"
        elif len(raw) <= 8 and "crc" not in name and name not in ("uid", "chain"):
            value = f" {int.from_bytes(raw, 'little')}"
        for part in range(0, len(raw), 8):
            label = f"{name}{value}" if part == 0 else ""
            yield f"{at + part:08x}  {raw[part : part + 8].hex(' '):24} {label}".rstrip()
        at += len(raw)


def dump_bytes(data: bytes, at: int, length: int, label: str) -> Iterator[str]:
    for part in range(at, at + length, 8):
        raw = data[part : min(part + 8, at + length)]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in raw)
        yield f"{part:08x}  {raw.hex(' '):24} {shown:8}  {label if part == at else ''}".rstrip()


def example() -> str:
    files = tiny_store()
    lines = [f"{name}: {len(content)} bytes" for name, content in sorted(files.items())]
    superblock = files["SUPER"]
    slot = max((0, 4096), key=lambda at: struct.unpack_from("<Q", superblock, at + 24))
    lines += ["", f"SUPER, slot {slot // 4096}, the newest", *dump(superblock, slot, SUPER)]
    data = files["segments/0000000000000001.seg"]
    lines += ["", "segments/0000000000000001.seg, header", *dump(data, 0, SEGMENT)]
    for at, title in ((4096, "first frame: the catalog"), (8192, "second frame: the record")):
        (size,) = struct.unpack_from("<I", data, at + 64 + 32)
        lines += ["", title, *dump(data, at, FRAME), "", "its block", *dump(data, at + 64, BLOCK)]
        label = "BatchHStreamRecords"
        lines += ["", "the block's payload", *dump_bytes(data, at + 120, size, label)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(example() + "\n")
