"""Which process uses gRPC: its forked children cannot, since the threads that do its work are
not there."""

from __future__ import annotations

from hstreamlite.env import Env
from hstreamlite.errors import Forked


class Use:
    """By which process gRPC is used, as far as it is by this package."""

    def __init__(self) -> None:
        self._pid: int | None = None

    def begin(self, env: Env, address: str) -> None:
        """Note that it is used by this one; Forked if one that forked this one used it."""
        pid = env.pid()
        if self._pid is None:
            self._pid = pid
        if self._pid != pid:
            raise Forked(address, self._pid, connecting=True)


grpc = Use()
