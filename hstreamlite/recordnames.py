"""Names of records that stats and warnings tell of, as the log has them."""

from __future__ import annotations

from hstreamlite.errors import HStreamError
from hstreamlite.log.journal import Journal
from hstreamlite.records import RecordId
from hstreamlite.sub.names import BY_LSN


class RecordNames:
    """The `Names` of one store's records; what the log cannot tell is left out, and no error.

    Looks into indexes for an id, and reads a block for a key.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def id(self, shard: int, lsn: int) -> str:
        try:
            block = self._journal.block_of(shard, lsn)
        except (HStreamError, OSError):
            block = None
        if block is None:
            return BY_LSN.id(shard, lsn)
        return str(RecordId(shard, block.first, lsn - block.first))

    def told(self, shard: int, lsn: int) -> str:
        name = self.id(shard, lsn)
        try:
            records = self._journal.cursor(shard, lsn).read(1, end=lsn + 1)
        except (HStreamError, OSError):
            records = None
        key = records[0].key if records else ""
        return f"{name} of key {key!r}" if key else name
