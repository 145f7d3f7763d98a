"""TLS of what listens: certificate, key, and whose certificates clients must have."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path


class BadCertificate(ValueError):
    """A certificate, a key or a list of authorities cannot be used as configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Files of TLS, in PEM form. They are read once, at the start."""

    certificate: str
    """Certificate of the server, with those between it and its authority behind it. Its names must
    include what clients are told to dial."""
    key: str = field(repr=False)
    """Private key of it, without a password; nobody else should be able to read the file."""
    client_authority: str | None = None
    """Certificates of the authorities of clients. Given: a client has to show a certificate of
    theirs, and its common name is its role."""

    def __post_init__(self) -> None:
        for name in ("certificate", "key", "client_authority"):
            path = getattr(self, name)
            if path is not None and (not isinstance(path, str) or not path):
                raise ValueError(f"{name} of tls must be the path of a file")


@dataclass(frozen=True, slots=True)
class Pems:
    """What was read, checked to belong together."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_authority: bytes | None

    @classmethod
    def read(cls, config: TlsConfig) -> Pems:
        """Read the files. BadCertificate, without any of their contents, if they are no use."""
        authority = config.client_authority
        found = cls(
            _read("certificate", config.certificate),
            _read("key", config.key),
            _read("client_authority", authority) if authority else None,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a function for the password, OpenSSL would ask for it on the terminal.
            context.load_cert_chain(config.certificate, config.key, _no_password)
        except (ssl.SSLError, ValueError) as error:
            raise BadCertificate(
                f"The certificate {config.certificate} and the key {config.key} cannot be used "
                f"({_why(error)}); both must be PEM, belong together and have no password."
            ) from None
        if authority:
            try:
                context.load_verify_locations(authority)
            except ssl.SSLError as error:
                raise BadCertificate(
                    f"The client_authority {authority} cannot be used ({_why(error)}); "
                    "it must be certificates in PEM form."
                ) from None
        return found


def _no_password() -> bytes:
    raise ValueError("the key has a password")


def _why(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadCertificate(f"The {name} {path} cannot be read: {error.strerror}.") from None


def readable_by_others(path: str, stat: Callable[[str], os.stat_result] = os.stat) -> bool:
    """Tell whether others than a file's owner and its group may read it."""
    return bool(stat(path).st_mode & 0o004)


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is reached from its own machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
