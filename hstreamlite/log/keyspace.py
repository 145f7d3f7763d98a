"""Keys, hash ranges and shards.

HStreamDB's rule: the MD5 of a key's UTF-8 bytes, read big-endian as a 128-bit number, falls into
one of n equal contiguous ranges; the last one takes the remainder. An absent key is the empty one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import md5

HASH_MAX = 2**128 - 1


@dataclass(frozen=True, slots=True)
class Shard:
    """One hash range of a stream, both ends inclusive."""

    id: int
    start: int
    end: int


def key_hash(key: str) -> int:
    """Return the position of a key in the hash space.

    >>> hex(key_hash(""))
    '0xd41d8cd98f00b204e9800998ecf8427e'
    """
    return int.from_bytes(md5(key.encode(), usedforsecurity=False).digest(), "big")


def split(ids: Sequence[int]) -> tuple[Shard, ...]:
    """Return shards with the given ids that cover the hash space in equal parts.

    >>> [s.start for s in split([1, 2])]
    [0, 170141183460469231731687303715884105727]
    """
    step = HASH_MAX // len(ids)
    last = len(ids) - 1
    return tuple(
        Shard(shard_id, i * step, HASH_MAX if i == last else (i + 1) * step - 1)
        for i, shard_id in enumerate(ids)
    )


class Router:
    """Finds the shard of a key; remembers keys it has seen, up to a bound."""

    __slots__ = ("_known", "_rotation", "_starts", "ids")

    REMEMBERED_MAX = 65_536

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.ids = tuple(shard.id for shard in shards)
        self._starts = [shard.start for shard in shards]
        self._known: dict[str, int] = {}
        self._rotation = 0

    def shard_of(self, key: str) -> int:
        """Return the shard id of a key."""
        found = self._known.get(key)
        if found is None:
            found = self.ids[bisect_right(self._starts, key_hash(key)) - 1]
            if len(self._known) >= self.REMEMBERED_MAX:
                self._known.clear()
            self._known[key] = found
        return found

    def next_keyless(self) -> int:
        """Return the shard for the keyless records of one call: each shard in turn, since records
        without a key are ordered with nothing."""
        self._rotation = (self._rotation + 1) % len(self.ids)
        return self.ids[self._rotation]
