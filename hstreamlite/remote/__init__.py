"""Stores of other processes: the nouns of a store over a connection to the server that has it.

Nothing here is loaded before `connect` is called.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing itself costs a third of starting Python
if TYPE_CHECKING:
    from hstreamlite.config import Durability
    from hstreamlite.remote.blocking import Store
    from hstreamlite.remote.security import PathText
    from hstreamlite.remote.store import Connecting

__all__ = ["connect", "connect_asyncio"]

TIMEOUT_SECONDS = 30.0


def connect(
    address: str,
    *,
    timeout: float | None = TIMEOUT_SECONDS,
    durability: Durability | None = None,
    token: str | None = None,
    ca: PathText = None,
    certificate: PathText = None,
    key: PathText = None,
) -> Store:
    """Reach a store that a server has: it has the nouns and errors of one that is open here.

    address: "hstream://HOST:PORT", "hstreams://HOST:PORT" for TLS, or "unix:PATH", where PATH is
    the directory of the store, for processes of one machine, or the server's socket. Start the
    server with ``python -m hstreamlite server --store PATH``. durability is the level of appends
    that name none, in place of the server's.

    token: what the server's operator made for this client; without TLS it can be read on the way.
    ca: PEM file of the authorities to believe, those that are generally known if None. certificate
    and key: PEM files of what this client shows, where the server asks for it.

    Broken connections are made anew. timeout: seconds for which a call tries, None = for ever.
    ConnectionFailed when no server was there for so long, ConnectionLost when a call that must not
    be made twice broke, with an outcome that says whether it may have happened.

    Unauthenticated when the server does not know the client, PermissionDenied when it grants it
    too little; OSError when a file cannot be read. ImportError without the packages of the extra
    `client`.
    """
    _check_installed()
    from hstreamlite.remote.blocking import connect as connect_blocking
    from hstreamlite.remote.security import Security

    security = Security(token=token, ca=ca, certificate=certificate, key=key)
    return connect_blocking(address, timeout=timeout, durability=durability, security=security)


def connect_asyncio(
    address: str,
    *,
    timeout: float | None = TIMEOUT_SECONDS,
    durability: Durability | None = None,
    token: str | None = None,
    ca: PathText = None,
    certificate: PathText = None,
    key: PathText = None,
) -> Connecting:
    """Reach a store that a server has: ``async with connect(address) as store`` or
    ``store = await connect(address)``.

    Arguments and errors as `hstreamlite.connect`. The store belongs to the running loop.
    """
    _check_installed()
    from hstreamlite.remote.security import Security
    from hstreamlite.remote.store import Connecting

    security = Security(token=token, ca=ca, certificate=certificate, key=key)
    return Connecting(address, timeout=timeout, durability=durability, security=security)


def _check_installed() -> None:
    try:
        for name in ("grpc", "google.protobuf"):
            import_module(name)
    except ModuleNotFoundError as error:
        from hstreamlite.net import needs

        raise needs("client", error) from error
