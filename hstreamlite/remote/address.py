"""Where a server is: what users write, and what is dialled."""

from __future__ import annotations

from dataclasses import dataclass
from os import path as paths
from urllib.parse import urlsplit

PORT = 6570
SOCKET = "server.sock"
"""The socket of a server in the directory of its store."""
_FORMS = (
    '"hstream://HOST:PORT", "hstreams://HOST:PORT" for TLS, or "unix:PATH", PATH being the '
    "directory of a store or a socket"
)


@dataclass(frozen=True, slots=True)
class Address:
    """``text`` is what the user wrote, ``target`` how gRPC calls it, ``secure`` with TLS."""

    text: str
    target: str
    secure: bool = False


def parse(address: object) -> Address:
    """Return the address; TypeError or ValueError for what is none."""
    if not isinstance(address, str):
        raise TypeError(f"address must be a str, not {type(address).__name__}")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        if not path or "\0" in path:
            raise ValueError(f"address must be {_FORMS}, not {address!r}")
        path = paths.abspath(path)  # noqa: PTH100 - links are the user's to keep
        if paths.isdir(path):  # noqa: PTH112 - a look at the kind, as long as it is text
            path = f"{path}/{SOCKET}"
        return Address(address, f"unix:{path}")
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
