"""What a client shows to a server, and which servers it believes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from hstreamlite.remote.address import Address

PathText = str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Files hold PEM; they are read when a channel is made. The token is in no repr."""

    token: str | None = field(default=None, repr=False)
    ca: PathText = None
    certificate: PathText = None
    key: PathText = None

    def check(self, address: Address) -> None:
        """Raise TypeError or ValueError for what cannot be, or says nothing at that address."""
        if self.token is not None:
            if not isinstance(self.token, str):
                raise TypeError(f"token must be a str or None, not {type(self.token).__name__}")
            if not self.token.isascii() or not self.token.isprintable() or not self.token:
                raise ValueError("token must be a text of printable ASCII characters")
        for name in ("ca", "certificate", "key"):
            path = getattr(self, name)
            if not isinstance(path, str | os.PathLike | None):
                raise TypeError(f"{name} must be the path of a file, not {type(path).__name__}")
            if path is not None and not address.secure:
                raise ValueError(f"{name} needs an address with TLS: hstreams://HOST:PORT")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: give both or none")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return () if self.token is None else (("authorization", f"Basic {self.token}"),)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return those of TLS. OSError for a file that cannot be read."""
        read = [
            None if path is None else Path(path).read_bytes()
            for path in (self.ca, self.key, self.certificate)
        ]
        return grpc.ssl_channel_credentials(*read)


class Calls:
    """The calls of a stub, with metadata that goes with each."""

    def __init__(self, stub: object, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(getattr(self._stub, name), metadata=self._metadata)
