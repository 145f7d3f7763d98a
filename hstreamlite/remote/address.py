"""Where a server is: what users write, and what is dialled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import path as paths
from typing import Final
from urllib.parse import quote_from_bytes, urlsplit

PORT = 6570
SOCKET = "server.sock"
"""The socket of a server in the directory of its store."""
_BYTES_MAX: Final = 107
"""Of a path in the address of a socket."""
_HANDLES: Final = "/proc/self/fd"
_NAME_MAX: Final = _BYTES_MAX - len(f"{_HANDLES}/1000000/")
_FORMS = (
    '"hstream://HOST:PORT", "hstreams://HOST:PORT" for TLS, or "unix:PATH", PATH being the '
    "directory of a store or a socket"
)


@dataclass(frozen=True, slots=True)
class Address:
    """``text`` is what the user wrote, ``target`` or ``path`` where it is, ``secure`` with TLS."""

    text: str
    target: str = ""
    secure: bool = False
    path: str = ""

    @property
    def socket(self) -> str:
        """The path of the socket, which a store's directory stands for."""
        inside = paths.isdir(self.path)  # noqa: PTH112 - a look at the kind, as long as it is text
        return f"{self.path}/{SOCKET}" if inside else self.path

    @contextmanager
    def dialled(self) -> Iterator[str]:
        """Yield how gRPC calls it, for as long as a channel is open.

        A path that is too long for the address of a socket is called by way of a handle of its
        directory.
        """
        if not self.path:
            yield self.target
            return
        path = os.fsencode(self.socket)
        if len(path) <= _BYTES_MAX:
            yield _of_path(path)
            return
        directory, name = paths.split(path)
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield _of_path(b"%s/none/%s" % (_HANDLES.encode(), name))  # where nobody is, either
            return
        try:
            yield _of_path(b"%s/%d/%s" % (_HANDLES.encode(), handle, name))
        finally:
            os.close(handle)


def _of_path(path: bytes) -> str:
    return f"unix:{quote_from_bytes(path)}"


def parse(address: object) -> Address:
    """Return the address; TypeError or ValueError for what is none."""
    if not isinstance(address, str):
        raise TypeError(f"address must be a str, not {type(address).__name__}")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        if not path or "\0" in path:
            raise ValueError(f"address must be {_FORMS}, not {address!r}")
        path = paths.abspath(path)  # noqa: PTH100 - links are the user's to keep
        found = Address(address, path=path)
        _check_length(os.fsencode(found.socket))
        return found
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"address must be {_FORMS}, not {address!r}") from None
    beyond = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in {"hstream", "hstreams"} or not host or beyond or port == 0:
        raise ValueError(f"address must be {_FORMS}, not {address!r}")
    name = f"[{host}]" if ":" in host else host
    target = f"dns:///{name}:{PORT if port is None else port}"
    return Address(address, target, secure=parts.scheme == "hstreams")


def _check_length(path: bytes) -> None:
    """Raise ValueError for a path by which no socket can be called here."""
    if len(path) <= _BYTES_MAX:
        return
    if not paths.isdir(_HANDLES):  # noqa: PTH112
        raise ValueError(
            f"the path of a socket has at most {_BYTES_MAX} bytes on this system, and "
            f"{os.fsdecode(path)!r} has {len(path)}: connect to hstream://HOST:PORT instead, or "
            "give the store a shorter path"
        )
    if len(paths.split(path)[1]) > _NAME_MAX:
        raise ValueError(
            f"the name of a socket has at most {_NAME_MAX} bytes where its path has more than "
            f"{_BYTES_MAX}, and {os.fsdecode(path)!r} has more of both: give it a shorter name"
        )
