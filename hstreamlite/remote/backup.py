"""A backup that a server makes, as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from grpc.aio import EOF

from hstreamlite.errors import ConnectionLost, RemoteProtocolError, Unavailable
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.remote.link import Broken, Connection, Link, Retries
from hstreamlite.remote.reader import SILENCE_SECONDS


class Backup:
    """Follows one call. Its end before the last step gives the backup up."""

    def __init__(self, link: Link, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a backup must be str, not {type(name).__name__}")
        self._link = link
        self._request = pb.BackupRequest(name=name)
        self._call: Any = None
        self._connection: Connection | None = None

    async def step(self) -> pb.BackupPart:
        """Return how far the server is; the last step has a path.

        ConnectionFailed, Unavailable: nothing happened. ConnectionLost with outcome "unknown": the
        server gives the backup up, unless it was done by then. So it ends too when another call of
        the same store breaks or gets no answer: their connection is given up for a new one.
        """
        link = self._link
        retries = Retries(link)
        while True:
            try:
                if self._call is None:
                    await link.begun()
                    self._connection = await link.connection(retries.deadline)
                    self._call = self._connection.stub.Backup(self._request)
                async with asyncio.timeout(SILENCE_SECONDS):
                    part = await link.read(self._call)
                return self._part(part)
            except TimeoutError:
                self._lose()
                raise ConnectionLost(link.address, why="brought nothing for too long") from None
            except (Broken, Unavailable) as error:
                link.check()
                self._lose()
                if isinstance(error, Broken) and error.sent:
                    raise ConnectionLost(link.address) from None
                await retries.wait(error)
            except BaseException:
                self.end()
                raise

    def _part(self, part: Any) -> pb.BackupPart:
        if not isinstance(part, pb.BackupPart):
            assert part is EOF
            raise RemoteProtocolError(
                f"The server at {self._link.address} ended a backup without saying where it is."
            )
        return part

    def _lose(self) -> None:
        if self._connection is not None:
            self._link.lost(self._connection)
        self.end()

    def end(self) -> None:
        """Wait no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
