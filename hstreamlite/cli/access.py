"""Which store a command works on, and how it is opened: the one place where that is decided.

Every command takes the same options, and so does the program before the name of the command. What
stands nearer to the command counts, options before environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import click

from hstreamlite.cli.exits import Exit, Refusal
from hstreamlite.cli.output import Output
from hstreamlite.cli.values import DURATION
from hstreamlite.errors import StoreLocked
from hstreamlite.net.config import SOCKET_NAME

if TYPE_CHECKING:
    from hstreamlite.cli.wire import Wire
    from hstreamlite.remote.security import Security
    from hstreamlite.store import Store

STORE_VARIABLE = "HSTREAMLITE_STORE"
URL_VARIABLE = "HSTREAMLITE_SERVICE_URL"
TOKEN_VARIABLE = "HSTREAMLITE_TOKEN"  # noqa: S105 - its name only
RETRY_SECONDS = 10.0
PATH = "hstreamlite.cli.path"
"""Where the context keeps the words of the command that runs."""

_GIVEN = "hstreamlite.cli.given"
_OTHER = {"store": "service_url", "service_url": "store"}

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the store is: in a directory, or at a server."""

    store: str | None = None
    service_url: str | None = None
    retry_timeout: float = RETRY_SECONDS
    token: str | None = field(default=None, repr=False)
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def reading(self) -> Store:
        """Open to read, beside whoever writes; or connect."""
        if self.service_url:
            return self._connected(self.service_url)
        import hstreamlite

        return hstreamlite.open(self.directory(), read_only=True)

    def writing(self, *, create: bool = False) -> Store:
        """Open to change, or connect; StoreLocked, with a server's address, if another has it."""
        if self.service_url:
            return self._connected(self.service_url)
        return self.opened(create=create)

    def opened(self, *, create: bool = False) -> Store:
        """Open the directory to change it."""
        import hstreamlite

        try:
            return hstreamlite.open(self.directory(), create=create)
        except StoreLocked as error:
            address = server_of(error.path)
            advice = (
                f"that is a server: reach it with --service-url {address}"
                if address
                else "that is no server: end it; or let `hstreamlite server --store "
                f"{error.path}` take its place, for commands with --service-url unix:{error.path}"
            )
            raise StoreLocked(error.path, error.owner_pid, advice=advice) from None

    def wire(self) -> AbstractContextManager[Wire]:
        """Reach a server in HStreamDB's protocol."""
        from hstreamlite.cli.wire import reached

        assert self.service_url is not None
        return reached(self.service_url, self.security(), self.retry_timeout)

    def security(self) -> Security:
        """Return what the command shows to a server."""
        from hstreamlite.remote.security import Security

        return Security(
            token=self.token, ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key
        )

    def directory(self) -> str:
        """Return the directory of the store; Refusal where none was said."""
        if not self.store:
            raise Refusal(
                f"say which store: --store PATH or --service-url hstream://HOST:PORT, or set "
                f"{STORE_VARIABLE} or {URL_VARIABLE}",
                Exit.USAGE,
            )
        return self.store

    def _connected(self, url: str) -> Store:
        """Connect. The nouns are those of a store that is open here, and so they are used."""
        import hstreamlite

        store = hstreamlite.connect(
            url,
            timeout=self.retry_timeout,
            token=self.token,
            ca=self.tls_ca,
            certificate=self.tls_cert,
            key=self.tls_key,
        )
        return cast("Store", store)


def server_of(store: str) -> str | None:
    """Return the address under which a server on this machine has a store, or None."""
    socket = Path(store, SOCKET_NAME)
    return f"unix:{store}" if socket.is_socket() else None


def access_of(ctx: click.Context) -> Access:
    """Return what options and environment say in a context and those above it."""
    given: dict[str, Any] = {name: value for name, (_, value) in ctx.meta.get(_GIVEN, {}).items()}
    if "store" not in given and "service_url" not in given:
        named = {"store": STORE_VARIABLE, "service_url": URL_VARIABLE}
        given |= {name: os.environ[each] for name, each in named.items() if os.environ.get(each)}
    given.setdefault("token", os.environ.get(TOKEN_VARIABLE) or None)
    if given.get("store") is not None and given.get("service_url") is not None:
        raise Refusal(
            "a store is in a directory or at a server: give --store or --service-url, not both",
            Exit.USAGE,
        )
    return Access(**given)


def connecting(command: F) -> F:
    """Give a command the options that say where the store is."""
    for option in (
        _option(
            "--retry-timeout", DURATION, "DURATION",
            f"How long to try to reach the server.  [default: {RETRY_SECONDS:g}s]",
        ),
        _option("--tls-key", click.Path(), "FILE", "Private key of that certificate."),
        _option("--tls-cert", click.Path(), "FILE", "Certificate to show to the server."),
        _option("--tls-ca", click.Path(), "FILE", "Authorities to believe, if not the known ones."),
        _option("--token", click.STRING, "TEXT", f"Token to show.  [env: {TOKEN_VARIABLE}]"),
        _option(
            "--service-url", click.STRING, "URL",
            "Address of the server: hstream://HOST:PORT, hstreams:// for TLS, or unix:PATH.  "
            f"[env: {URL_VARIABLE}]",
        ),
        _option(
            "--store", click.Path(), "PATH", f"Directory of the store.  [env: {STORE_VARIABLE}]"
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _option(name: str, kind: click.ParamType[Any], metavar: str, text: str) -> Callable[[F], F]:
    return click.option(
        name, type=kind, metavar=metavar, help=text, expose_value=False, is_eager=True,
        callback=_kept,
    )  # fmt: skip


def _kept(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Keep it for access_of: contexts share what they keep, and inner ones are read later."""
    if value is None:
        return
    given: dict[str | None, tuple[click.Context, object]] = ctx.meta.setdefault(_GIVEN, {})
    other = _OTHER.get(param.name or "")
    if other in given and given[other][0] is not ctx:
        del given[other]
    given[param.name] = (ctx, value)


def reaches(
    command: Callable[Concatenate[Access, Output, P], R],
) -> Callable[P, R]:
    """Give a command its store and its output, and the options of both."""

    @connecting
    @click.option(
        "--json/--no-json",
        "as_json",
        default=None,
        help="Print JSON, or tables and text; without either, what suits where it goes.",
    )
    @wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> R:
        ctx = click.get_current_context()
        ctx.meta[PATH] = ctx.command_path
        as_json = options.pop("as_json")
        assert as_json is None or isinstance(as_json, bool)
        return command(access_of(ctx), Output(as_json=as_json), *args, **options)

    return run
