"""From records to what is staged: which shard, which block, under which compression."""

from __future__ import annotations

from typing import Any

from hstreamlite._native import fast
from hstreamlite.config import check_key
from hstreamlite.log.journal import Op, Run, compress
from hstreamlite.log.keyspace import Router
from hstreamlite.records import Record, RecordIds


def route(
    router: Router, items: list[Any], key: str | None, codec: int, batch_bytes_max: int
) -> tuple[list[Op], list[int] | None]:
    """Return the ops of one append, and, where several shards take part, the place of each record
    among the shards in the order in which they first occur."""
    if len(router.ids) == 1:
        groups: dict[int, list[Any]] = {router.ids[0]: items}
        order = None
    else:
        groups, order = _group(router, items, key)
    ops: list[Op] = []
    for shard, part in groups.items():
        if codec:
            ops.extend(_packed(shard, part, key, codec, batch_bytes_max))
        else:
            ops.append((shard, part, key))
    return ops, order


def _packed(
    shard: int, items: list[Any], key: str | None, codec: int, batch_bytes_max: int
) -> list[Op]:
    body = fast.encode_batch(items, key)
    if len(body) > batch_bytes_max and len(items) > 1:
        half = len(items) // 2
        return [
            *_packed(shard, items[:half], key, codec, batch_bytes_max),
            *_packed(shard, items[half:], key, codec, batch_bytes_max),
        ]
    packed = compress(codec, body)
    if len(packed) >= len(body):
        return [(shard, items, key)]
    return [(shard, codec, packed, len(items), len(body))]


def _group(
    router: Router, items: list[Any], key: str | None
) -> tuple[dict[int, list[Any]], list[int]]:
    """Split items by shard, in order; the second result is each item's place among the groups."""
    if key is not None:
        check_key(key)
    groups: dict[int, list[Any]] = {}
    places: dict[int, int] = {}
    order = []
    keyless = router.next_keyless()
    for item in items:
        own = item.key if isinstance(item, Record) and item.key is not None else key
        shard = router.shard_of(own) if own else keyless
        if shard not in groups:
            places[shard] = len(groups)
            groups[shard] = []
        groups[shard].append(item)
        order.append(places[shard])
    return groups, order


def ids_order(runs: list[Run], order: list[int] | None, shards: list[int]) -> list[int] | None:
    """Return for each record the index of its run, where the ops of `order` were split into
    several runs."""
    if order is None:
        return None
    queues: dict[int, list[int]] = {}
    for index, run in enumerate(runs):
        queues.setdefault(run.shard, []).extend([index] * run.records)
    iterators = {shard: iter(queue) for shard, queue in queues.items()}
    return [next(iterators[shards[place]]) for place in order]


def record_ids(runs: list[Run], order: list[int] | None, ops: list[Any]) -> RecordIds:
    """Return the ids of one append in the order of its records."""
    if order is None:
        return RecordIds(runs)
    shards = list(dict.fromkeys(op[0] for op in ops))
    return RecordIds(runs, ids_order(runs, order, shards))
