"""The store's own logs, replayed as far as they can be read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from hstreamlite._native import fast
from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import Catalog, StreamState
from hstreamlite.log.journal import CATALOG, PRODUCERS, PROGRESS
from hstreamlite.log.producers import ProducerTable
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.tools.findings import RECORD, Damage
from hstreamlite.tools.look import Look
from hstreamlite.tools.reach import Place, Reach
from hstreamlite.tools.segments import Block, Found

NAMES = {CATALOG: "catalog", PROGRESS: "progress of subscriptions", PRODUCERS: "list of producers"}
"""The store's own logs, as a person may call them."""


@dataclass(slots=True)
class State:
    """What the store's own logs say."""

    catalog: Catalog = field(default_factory=Catalog)
    producers: ProducerTable = field(default_factory=ProducerTable)
    progress: dict[int, Progress] = field(default_factory=dict)
    damage: list[tuple[int, Damage]] = field(default_factory=list)
    applied: dict[int, list[bytes]] = field(default_factory=dict)
    """What could be applied of the progress and the producers, as stored."""
    owners: dict[int, StreamState] = field(default_factory=dict)
    """Stream of each shard that one has, or that was given one by `name_unknown`."""
    unnamed: dict[int, StreamState] = field(default_factory=dict)
    """Streams that were given a name, by id."""
    reach: Reach = field(default_factory=Reach)
    catalog_refused: bool = False
    """Whether a record of the catalog cannot be applied."""


_REFUSALS = (ValueError, KeyError, TypeError, IndexError, OverflowError, struct.error)


def replay(seen: Look) -> State:
    """Apply what verifies, in order; what cannot be applied is damage."""
    state = State()
    snapshot = seen.superblock.snapshot if seen.superblock else (0, 0, 0)
    for log, start in zip((CATALOG, PROGRESS, PRODUCERS), snapshot, strict=True):
        for number, found, block, payload in _payloads(seen, log, start):
            try:
                _apply(state, log, payload, (number, block.off + block.length))
                if log != CATALOG:
                    state.applied.setdefault(log, []).append(payload)
            except _REFUSALS as error:
                detail = f"{NAMES[log]}: {type(error).__name__} {error}"
                damage = Damage(found.path, block.off, block.length, RECORD, detail)
                state.damage.append((number, damage))
                state.catalog_refused |= log == CATALOG
    for stream in state.catalog.by_id.values():
        state.owners.update(dict.fromkeys(stream.shard_ids, stream))
    return state


def _payloads(seen: Look, log: int, start: int) -> Iterator[tuple[int, Found, Block, bytes]]:
    """Yield each record of a log from an LSN on, with the block it is in."""
    blocks = [
        (block.seq, number, found, block)
        for number, found in seen.segments.items()
        for block in found.system
        if block.shard == log
    ]
    for seq, number, found, block in sorted(blocks, key=lambda item: item[:2]):
        if seq + block.records <= start:
            continue
        for lsn, record in enumerate(fast.decode_batch(found.bodies[block.off], log, seq), seq):
            if lsn >= start:
                assert isinstance(record.payload, bytes)
                yield number, found, block, record.payload


def _apply(state: State, log: int, payload: bytes, place: Place) -> None:
    if log == CATALOG:
        change = catalogs.decode(payload)
        state.catalog.apply(change)
        state.reach.note(change, place)
    elif log == PRODUCERS:
        state.producers.apply(payload)
    else:
        subscription = int.from_bytes(payload[:8], "little")
        state.progress.setdefault(subscription, Progress()).apply(payload[8:])
