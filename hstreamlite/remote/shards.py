"""The shards of streams at a server, which its nouns leave out on purpose: HStreamDB's clients need
them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from hstreamlite.config import SHARDS_MAX, check_bool, check_int, check_name
from hstreamlite.info import ShardRange
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.wire import shard_from
from hstreamlite.remote.link import Link
from hstreamlite.remote.requests import stream_request

_REPLICATION_MAX = (1 << 31) - 1


async def create_stream(
    link: Link,
    name: str,
    *,
    shards: int,
    replication: int,
    backlog: float | timedelta = 0,
    max_bytes: int = 0,
    protect: Iterable[str] = (),
    exists_ok: bool = False,
) -> None:
    """Create a stream of so many shards, as `Store.create_stream`."""
    request = stream_request(name, backlog, max_bytes, protect)
    request.shards = check_int("shards", shards, 1, SHARDS_MAX)
    request.replication = check_int("replication", replication, 1, _REPLICATION_MAX)
    request.exists_ok = check_bool("exists_ok", exists_ok)
    await link.call("CreateStream", request, again=exists_ok)


async def shard_ranges(link: Link, stream: str) -> list[ShardRange]:
    """Return the shards of a stream, in the order of their hashes."""
    request = pb.StreamRequest(stream=check_name("stream", stream))
    reply = await link.call("ListShards", request, again=True)
    return [shard_from(shard) for shard in reply.shards]
