"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hstreamlite.config import StoreConfig, check_bool, check_int, check_seconds
from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.limits import LimitsConfig
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.tls import TlsConfig, is_loopback

PORT = 6570
"""Where clients of HStreamDB look when nobody tells them."""
HTTP_PORT = 6580
"""Where HTTP is, beside that."""
SOCKET_NAME = "server.sock"
"""The Unix socket, in the directory of the store."""
RECEIVE_BYTES_MAX = 16 << 20

Delivery = Literal["ordered", "shared"]


class CannotListen(Exception):
    """An address cannot be listened on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """A further address to listen on. Who comes in by it is told its address, not the main one."""

    group: str
    host: str
    port: int
    advertised_host: str | None = None
    advertised_port: int | None = None
    plaintext: bool = False
    """No TLS here, although the server has it."""

    def __post_init__(self) -> None:
        check_bool("plaintext", self.plaintext)
        if not self.group or self.group in {"main", "unix"}:
            raise ValueError(
                f"a listener's group must have a name other than main and unix, not {self.group!r}"
            )
        _check_address(self.host, self.port, self.advertised_host, self.advertised_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How a server listens, and for which store. A value outside its range raises ValueError."""

    store: str
    """Directory of the store. It is created if there is none."""
    backup_dir: str | None = None
    """Directory on this machine in which clients may have the store copied, each time to a new one
    of a name they give. It must be there, outside of the store. None: no backups are made."""
    host: str = "127.0.0.1"
    """Address to listen on; "0.0.0.0" and "::" are all of the machine."""
    port: int = PORT
    """0 = any that is free; the line printed at the start names it."""
    advertised_host: str | None = None
    """What clients are told to dial. None: `host`, or the machine's name where that is all of it.
    They dial exactly this, so it must lead here from where they are."""
    advertised_port: int | None = None
    """None: the port that is listened on."""
    listeners: tuple[ListenerConfig, ...] = ()
    """Further addresses, each advertised to those who come in by it."""
    unix_socket: bool = True
    """Listen on `server.sock` in the store's directory, too."""
    http: bool = True
    """Serve HTTP: JSON, documentation, metrics."""
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    """Port of HTTP; 0 = any that is free. None: ten above `port`, and any where that is 0."""
    delivery: Delivery = "ordered"
    """What subscriptions made by clients of HStreamDB do with batches: "ordered" keeps the order of
    a shard and gives a shard to one consumer at a time; "shared" gives batches round-robin."""
    drain_timeout: float = 10.0
    """Seconds that calls have to finish when the server stops. 0 to 3600."""
    receive_bytes_max: int = RECEIVE_BYTES_MAX
    """Largest request. Below the largest batch: clients learn only that their call was too large.
    64 KiB to 1 GiB."""
    node_id: int = 1
    """Number of this server among those of its cluster."""
    store_config: StoreConfig = field(default_factory=StoreConfig)
    rest: RestConfig = field(default_factory=RestConfig)
    """Limits of HTTP."""
    metric_labels_max: int = 1000
    """So many streams, and so many subscriptions, have metrics of their own at `/metrics`; the
    others are added up under `_other`. 0 to 100,000."""
    tokens: tuple[TokenConfig, ...] = ()
    """Tokens, one of which a client has to show. None: nobody is asked for one."""
    grants: tuple[GrantConfig, ...] = ()
    """What roles may do, and nothing else. None: whoever is known may do everything."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged to stderr: this and what is graver."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """Of lines of the log; auto: for people on a terminal, else JSON."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What clients may hold of the server."""
    tls: TlsConfig | None = None
    """TLS of all listeners and of HTTP. None: they are in plain text."""
    insecure_plaintext: bool = False
    """Listen in plain text on addresses that other machines reach, too. Whoever is on the way can
    read tokens and records then, and change them."""

    def __post_init__(self) -> None:
        _check_address(self.host, self.port, self.advertised_host, self.advertised_port)
        if self.backup_dir is not None and not self.backup_dir:
            raise ValueError("backup_dir must not be empty")
        groups = [listener.group for listener in self.listeners]
        if len(set(groups)) < len(groups):
            raise ValueError(f"every listener needs a group of its own, not {', '.join(groups)}")
        check_bool("http", self.http)
        check_bool("unix_socket", self.unix_socket)
        check_bool("insecure_plaintext", self.insecure_plaintext)
        self._check_plaintext()
        if self.http:
            check_int("http_port", self.http_port_wanted, 0, 65_535)
        if self.delivery not in {"ordered", "shared"}:
            raise ValueError(f"delivery must be ordered or shared, not {self.delivery!r}")
        check_seconds("drain_timeout", self.drain_timeout, 0, 3600)
        check_int("receive_bytes_max", self.receive_bytes_max, 64 << 10, 1 << 30)
        check_int("node_id", self.node_id, 1, 2**32 - 1)
        check_int("metric_labels_max", self.metric_labels_max, 0, 100_000)

    @property
    def http_port_wanted(self) -> int:
        """The port of HTTP to listen on, 0 = any."""
        if self.http_port is not None:
            return self.http_port
        return self.port + HTTP_PORT - PORT if self.port else 0

    def _check_plaintext(self) -> None:
        if self.insecure_plaintext:
            return
        found = [("listeners", each.host) for each in self.listeners if each.plaintext]
        if self.tls is None:
            found = [("listeners", each.host) for each in self.listeners]
            found.append(("host", self.host))
            if self.http:
                found.append(("http_host", self.http_host))
        open_ = [f"{name} {host}" for name, host in found if not is_loopback(host)]
        if open_:
            raise ValueError(
                f"{', '.join(open_)} can be reached from other machines, and nothing would be "
                "encrypted: give tls, listen on 127.0.0.1, or set insecure_plaintext "
                "(--insecure-plaintext) if the network itself is safe"
            )


def _check_address(
    host: str, port: int, advertised_host: str | None, advertised_port: int | None
) -> None:
    if not isinstance(host, str) or not host:
        raise ValueError(f"host must be an address to listen on, not {host!r}")
    check_int("port", port, 0, 65_535)
    if advertised_host is not None and not advertised_host:
        raise ValueError("advertised_host must not be empty")
    if advertised_port is not None:
        check_int("advertised_port", advertised_port, 1, 65_535)
