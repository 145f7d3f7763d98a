"""Makes the golden images of on-disk format version 1.

One simulated machine, three lives: a store is filled and closed ("closed"), opened again, filled on
and killed ("crashed"), opened again, written anew sorted by log and closed ("regrouped"). Then one
of its blocks is zeroed, and what verifies is saved into another store ("salvaged"). Nothing in it
depends on time, chance or the versions of compression libraries, so the same bytes come out for as
long as the format and the writer's decisions stay.

    python tests/log/golden/make.py     compares with what is committed; --write replaces it
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite.log import journal
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.tools.salvage import salvage
from tests.log.format_reader import read_store

HERE = Path(__file__).parent / "v1"
LIVES = ("closed", "crashed", "regrouped")
IMAGES = (*LIVES, "salvaged")
ROOT = "/store"
SAVED = "/saved"
CONFIG = hs.StoreConfig(
    segment_bytes_min=64 << 10,
    segment_bytes_max=256 << 10,
    checkpoint_bytes=64 << 10,
    os_stage_bytes=64 << 10,
    tail_bytes=0,
    prewrite_bytes=16 << 10,
)

Image = dict[str, bytes]
Compress = Callable[[int, bytes], bytes]


def text(name: str, number: int, times: int) -> bytes:
    """Return a payload that is long in the store and short in the archive."""
    return f"{name} {number};".encode() * times


@dataclass
class Model:
    """What the store must hold: written down while appending, never read from the store."""

    streams: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unacked: dict[str, list[str]] = field(default_factory=dict)
    producers: dict[str, int] = field(default_factory=dict)

    def put(
        self,
        stream: str,
        ids: Any,
        payloads: list[Any],
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        time_ms: int,
        lost_at_power_cut: bool = False,
    ) -> None:
        for record_id, payload in zip(ids, payloads, strict=True):
            row: dict[str, Any] = {"id": str(record_id), "time_ms": time_ms}
            if isinstance(payload, dict):
                row["json"] = payload
            else:
                row["bytes"] = len(payload)
                row["sha256"] = hashlib.sha256(payload).hexdigest()
            if key:
                row["key"] = key
            if attributes:
                row["attributes"] = attributes
            if lost_at_power_cut:
                row["stage_only"] = True
            self.streams.setdefault(stream, []).append(row)

    def trim(self, stream: str, before: str) -> None:
        rows = self.streams[stream]
        at = [row["id"] for row in rows].index(before)
        self.streams[stream] = rows[at:]

    def lose(self, stream: str, batch: str) -> None:
        ids = {row["id"] for row in self.streams[stream] if row["id"].startswith(batch)}
        self.streams[stream] = [r for r in self.streams[stream] if r["id"] not in ids]
        self.unacked = {
            name: [id_ for id_ in rows if id_ not in ids] for name, rows in self.unacked.items()
        }

    def as_json(self) -> dict[str, Any]:
        return json.loads(  # type: ignore[no-any-return]
            json.dumps(
                {
                    "streams": self.streams,
                    "unacked": self.unacked,
                    "producers": self.producers,
                }
            )
        )


def first_life(env: SimEnv, model: Model) -> None:
    store = hs.open(ROOT, env=env, config=CONFIG)
    orders = store.create_stream("orders", backlog=7 * 86_400.0)
    for number in range(40):
        env.advance(0.25)
        payload = text("order", number, 300)
        rid = orders.append(payload, key=f"customer-{number % 4}")
        model.put(
            "orders", [rid], [payload], key=f"customer-{number % 4}", time_ms=env.clock.wall_ms()
        )
    with store.transaction() as tx:
        tx._collected.create_stream("clicks", {"shards": 3})
        tx.create_stream("notes", max_bytes=1 << 30)
        tx.append("notes", b"one frame with its stream", key="first")
    time_ms = env.clock.wall_ms()
    made = tx.ids["notes"]
    model.put("notes", made, [b"one frame with its stream"], key="first", time_ms=time_ms)
    clicks = store.stream("clicks")
    for number in range(12):
        key = f"page-{number % 5}"
        payloads: list[Any] = [text("click", number, 40), text("click", number, 1), b""]
        clicked = clicks.append_many(payloads, key=key)
        model.put("clicks", clicked, payloads, key=key, time_ms=env.clock.wall_ms())
    for compression in ("gzip", "zstd"):
        payloads = [text(compression, number, 100) for number in range(20)]
        ids = orders.append_many(payloads, compression=compression)
        model.put("orders", ids, payloads, time_ms=env.clock.wall_ms())
    note = {"title": "größer", "stars": 4.5, "tags": ["a", None, True], "size": {"x": 1, "y": -2}}
    rid = store.stream("notes").append(hs.Record(note, key="k", attributes={"lang": "de"}))
    model.put("notes", [rid], [note], key="k", attributes={"lang": "de"}, time_ms=time_ms)

    with orders.producer(name="importer", batch_records=4) as producer:
        payloads = [text("import", number, 3) for number in range(10)]
        pending = [producer.submit(payload, key="imported") for payload in payloads]
        producer.flush()
        imported = [item.result() for item in pending]
    model.put("orders", imported, payloads, key="imported", time_ms=env.clock.wall_ms())
    model.producers["importer"] = 10

    billing = store.create_subscription("billing", stream="orders", max_unacked=1000)
    with billing.consumer("worker-1") as consumer:
        batch = consumer.receive(30)
        for at, delivery in enumerate(batch):
            if at < 10 or at % 3 == 0:
                delivery.ack()
    store.create_subscription("audit", stream="clicks", start=hs.LATEST)
    store.create_stream("dropped").append(b"gone with its stream")
    store.delete_stream("dropped")
    archived = store.create_stream("archived")
    rid = archived.append(b"kept for its subscription")
    store.create_subscription("heirs", stream="archived")
    store.delete_stream("archived", force=True)
    model.unacked["heirs"] = [str(rid)]

    rows = model.streams["orders"]
    taken = {row["id"] for at, row in enumerate(rows[:30]) if at < 10 or at % 3 == 0}
    before = rows[24]["id"]
    orders.trim(before=hs.RecordId.parse(before))
    model.trim("orders", before)
    model.unacked["billing"] = [r["id"] for r in model.streams["orders"] if r["id"] not in taken]
    model.unacked["audit"] = []
    env.advance(2.0)
    store.tick()
    store.close()


def second_life(env: SimEnv, model: Model) -> None:
    store = hs.open(ROOT, env=env, config=CONFIG)
    orders = store.stream("orders")
    for number in range(60):
        env.advance(0.01)
        payload = text("more", number, 500)
        rid = orders.append(payload)
        model.put("orders", [rid], [payload], time_ms=env.clock.wall_ms())
        model.unacked["billing"].append(str(rid))
    with store.subscription("heirs").consumer("worker-1") as consumer:
        consumer.ack(consumer.receive())
        model.unacked["heirs"] = []
    store.sync()
    notes = store.stream("notes")
    staged: list[tuple[Any, list[Any], str | None]] = []
    staged.append(
        ([notes.append(b"only in the stage", durability="os")], [b"only in the stage"], None)
    )
    staged.append(([notes.append(b"continued", durability="os")], [b"continued"], None))
    payloads: list[Any] = [b"several", b"in one entry"]
    staged.append((notes.append_many(payloads, key="s", durability="os"), payloads, "s"))
    env.advance(0.003)
    staged.append(([notes.append({"n": 1}, durability="os")], [{"n": 1}], None))
    for at, (ids, items, key) in enumerate(staged):
        time_ms = env.clock.wall_ms() - (0 if at == len(staged) - 1 else 3)
        model.put("notes", ids, items, key=key, time_ms=time_ms, lost_at_power_cut=True)
    # The process dies here: the store is left open on purpose.
    keep_alive.append(store)


def third_life(env: SimEnv, model: Model) -> None:
    store = hs.open(ROOT, env=env, config=CONFIG)
    for row in model.streams["notes"]:
        row.pop("stage_only", None)
    for number in range(30):
        env.advance(0.01)
        for name in ("orders", "clicks", "notes"):
            payload = text(f"scattered {name}", number, 120)
            rid = store.stream(name).append(payload, key="k")
            model.put(name, [rid], [payload], key="k", time_ms=env.clock.wall_ms())
            if name != "notes":
                model.unacked["billing" if name == "orders" else "audit"].append(str(rid))
    store.close()
    store = hs.open(ROOT, env=env, config=CONFIG)
    store.compact()
    rid = store.stream("notes").append(b"behind what was written anew")
    model.put("notes", [rid], [b"behind what was written anew"], time_ms=env.clock.wall_ms())
    store.close()


def lose_and_save(env: SimEnv, model: Model) -> None:
    store = read_store(image_of(env))
    number, row = next(
        (segment.number, row)
        for segment in store.segments
        for row, block in segment.blocks
        if block.shard == 1 and block.codec == 0 and block.seq > 30 and block.count == 1
    )
    env.disk.zero_range(f"{ROOT}/segments/{number:016x}.seg", row.off8 * 8, row.length)
    salvage(env, ROOT, SAVED)
    model.lose("orders", f"1-{row.seq}-")


keep_alive: list[hs.Store] = []
"""Stores whose process has died; closing them is nobody's business."""


def image_of(env: SimEnv, root: str = ROOT) -> Image:
    """Return the files as the next process will find them."""
    disk = env.disk
    names = [path for path in disk.walk(root) if path != f"{root}/LOCK"]
    return {name.removeprefix(f"{root}/"): disk.read_all(name) for name in names}


@contextmanager
def compression_by(compress: Compress) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hstreamlite.log.routing.compress", compress)
        yield


def recorded(rows: dict[str, str]) -> Compress:
    """Compress by looking up what was recorded: libraries differ, and any stream is as good."""

    def compress(codec: int, body: bytes) -> bytes:
        return bytes.fromhex(rows[f"{codec}:{hashlib.sha256(body).hexdigest()}"])

    return compress


def recording(rows: dict[str, str]) -> Compress:
    def compress(codec: int, body: bytes) -> bytes:
        packed = journal.compress(codec, body)
        rows[f"{codec}:{hashlib.sha256(body).hexdigest()}"] = packed.hex()
        return packed

    return compress


def make(compress: Compress) -> tuple[dict[str, Image], dict[str, Any]]:
    """Return the images and what they hold."""
    model = Model()
    images: dict[str, Image] = {}
    expected: dict[str, Any] = {}
    env = SimEnv(seed=1, capacity=64 << 20)
    with compression_by(compress):
        for name, life in zip(LIVES, (first_life, second_life, third_life), strict=True):
            life(env, model)
            env = env.process_crash()
            images[name] = image_of(env)
            expected[name] = model.as_json()
        lose_and_save(env, model)
        images["salvaged"] = image_of(env, SAVED)
        expected["salvaged"] = model.as_json()
    return images, expected


def pack(image: Image) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", preset=9) as archive:
        for name, content in sorted(image.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def load(name: str) -> Image:
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        members = [member for member in archive if member.isfile()]
        return {m.name: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]


def load_expected() -> dict[str, Any]:
    return json.loads((HERE / "expected.json").read_text())  # type: ignore[no-any-return]


def write() -> None:
    rows: dict[str, str] = {}
    images, expected = make(recording(rows))
    HERE.mkdir(exist_ok=True)
    for name, image in images.items():
        (HERE / f"{name}.tar.xz").write_bytes(pack(image))
    expected["compressed"] = rows
    (HERE / "expected.json").write_text(layout(expected) + "\n")


def layout(value: Any, depth: int = 0) -> str:
    """Return JSON with a line for each record."""
    indent = "\n" + " " * (depth + 1)
    if isinstance(value, dict) and depth < 3:
        rows = [f"{json.dumps(name)}: {layout(item, depth + 1)}" for name, item in value.items()]
        return "{" + indent + f",{indent}".join(rows) + "\n" + " " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [json.dumps(item, ensure_ascii=False) for item in value]
        return "[" + indent + f",{indent}".join(rows) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False)


def differences() -> list[str]:
    """Return what today's writer does differently from the committed images."""
    expected = load_expected()
    images, content = make(recorded(expected["compressed"]))
    found = [f"expected.json: {name}" for name in IMAGES if content[name] != expected[name]]
    for name, image in images.items():
        golden = load(name)
        found += [f"{name}: {file} is missing" for file in sorted(golden.keys() - image.keys())]
        found += [
            f"{name}: {file} is not in the archive" for file in sorted(image.keys() - golden.keys())
        ]
        for file in sorted(golden.keys() & image.keys()):
            if golden[file] != image[file]:
                pairs = enumerate(zip(golden[file], image[file], strict=False))
                at = next(
                    (i for i, (a, b) in pairs if a != b), min(len(golden[file]), len(image[file]))
                )
                found.append(f"{name}: {file} differs from offset {at} on")
    return found


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write()
    sys.exit("\n".join(differences()) or None)
