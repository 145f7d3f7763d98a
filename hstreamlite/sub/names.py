"""What records are called where a group tells of them.

A group knows LSNs; what batch one is of, and which key it has, stands in the log.
"""

from typing import Protocol


class Names(Protocol):
    """Names of records for people."""

    def id(self, shard: int, lsn: int) -> str:
        """Return the id of a record."""

    def told(self, shard: int, lsn: int) -> str:
        """Return the id of a record, and its key if it has one."""


class ByLsn:
    """Names that need no log: shard and LSN."""

    def id(self, shard: int, lsn: int) -> str:
        return f"{shard}-{lsn}"

    def told(self, shard: int, lsn: int) -> str:
        return self.id(shard, lsn)


BY_LSN = ByLsn()
