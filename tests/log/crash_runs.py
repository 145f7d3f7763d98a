"""Recorded runs of a store for the tests of crashes: seeded workloads, and the ten operations."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import hstreamlite as hs
from hstreamlite.testing.crash import Recording
from hstreamlite.testing.ledger import Entry, Ledger, Scribe
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config


def entries(tag: str, count: int, size: int, keys: int = 0) -> list[Entry]:
    return [
        (f"k{i % keys}" if keys else None, f"{tag}-{i}:".encode().ljust(size, b"."))
        for i in range(count)
    ]


@dataclass
class Run:
    """A workload that ran once over a recorded disk, or that is to be run over one."""

    env: SimEnv
    config: hs.StoreConfig
    recording: Recording
    ledger: Ledger

    def next_env(self, files: object) -> SimEnv:
        return self.env.after(files)  # type: ignore[arg-type]


def machine(seed: int) -> tuple[SimEnv, hs.StoreConfig]:
    """Return a machine, and settings that differ from seed to seed."""
    rng = random.Random(seed)
    env = SimEnv(seed=seed)
    if rng.random() < 0.4:
        env.disk.set_direct(0)
    config = small_config(
        prewrite_bytes=rng.choice((0, 8 << 10, 32 << 10)),
        checkpoint_bytes=rng.choice((64 << 10, 16 << 20)),
        segment_bytes_max=rng.choice((64 << 10, 256 << 10)),
        os_stage_bytes=rng.choice((64 << 10, 128 << 10)),
        tail_bytes=8 << 10,
        progress_acks=rng.choice((1, 50)),
    )
    return env, config


class Workload:
    """A seeded sequence of calls over streams that come and go."""

    def __init__(self, scribe: Scribe, seed: int) -> None:
        self.scribe = scribe
        self.rng = random.Random(seed)
        self.streams: list[str] = []
        self.made = 0
        self.sent = 0
        self.held = False

    def run(self, calls: int) -> None:
        self.create()
        self.append()
        weights: dict[Callable[[], None], int] = {
            self.append: 10,
            self.append_weak: 5,
            self.fill: 5,
            self.burst: 2,
            self.transact: 3,
            self.produce: 2,
            self.consume: 2,
            self.trim: 2,
            self.idle: 2,
            self.snapshot: 1,
            self.compact: 1,
            self.create: 1,
            self.delete: 1,
        }
        for call in self.rng.choices(list(weights), list(weights.values()), k=calls):
            call()

    def batch(self, count: int, size: int) -> list[Entry]:
        self.sent += 1
        return entries(f"{self.sent}", count, size, keys=self.rng.choice((0, 3)))

    def stream(self) -> str:
        return self.rng.choice(self.streams)

    def create(self) -> None:
        self.made += 1
        name = f"s{self.made}"
        self.scribe.create(name, shards=self.rng.choice((1, 1, 3)))
        self.streams.append(name)

    def delete(self) -> None:
        if len(self.streams) > 1:
            name = self.streams.pop(self.rng.randrange(1, len(self.streams)))
            self.scribe.delete(name)

    def append(self) -> None:
        count = self.rng.choice((1, 1, 5))
        codec = self.rng.choice(("none", "none", "zstd"))
        batch = self.batch(count, self.rng.choice((10, 700, 3000)))
        self.scribe.append(self.stream(), batch, compression=codec)

    def append_weak(self) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            level = self.rng.choice(("os", "memory"))
            batch = self.batch(self.rng.choice((1, 3)), self.rng.choice((10, 1500)))
            self.scribe.append(self.stream(), batch, level=level)
        if self.rng.random() < 0.3:
            self.scribe.sync()

    def fill(self) -> None:
        self.scribe.append(self.stream(), self.batch(8, 3000))

    def burst(self) -> None:
        """Several frames in one write, perhaps over the end of a segment."""
        for _ in range(self.rng.randrange(8, 16)):
            self.scribe.append(self.stream(), self.batch(1, 3500), level="memory")
        self.scribe.sync()

    def transact(self) -> None:
        names = sorted({self.stream(), self.stream()})
        self.scribe.transact({name: self.batch(3, 600) for name in names})

    def produce(self) -> None:
        self.scribe.produce(self.streams[0], "p", self.batch(2, 300))

    def consume(self) -> None:
        store = self.scribe.store
        if not self.held:
            store.create_subscription("sub", stream=self.streams[0])
            self.held = True
        with store.subscription("sub").consumer("c") as consumer:
            consumer.ack(list(consumer.receive(5, timeout=0))[:3])
        self.scribe.pass_time(0.2)

    def trim(self) -> None:
        self.scribe.trim(self.stream(), keep=self.rng.choice((0, 1, 4)))

    def idle(self) -> None:
        self.scribe.pass_time(self.rng.choice((0.06, 1.5)))

    def compact(self) -> None:
        self.scribe.compact()

    def snapshot(self) -> None:
        self.scribe.snapshot()
        self.scribe.free()


def workload_run(seed: int, calls: int) -> Run:
    """Record a store from its creation to its end."""
    env, config = machine(seed)
    recording = Recording(env.disk)
    scribe = Scribe(env, hs.open("/db", config=config, env=env), recording)
    Workload(scribe, seed).run(calls)
    if seed % 3 == 0:
        scribe.close()
    recording.stop()
    return Run(env, config, recording, scribe.ledger)
