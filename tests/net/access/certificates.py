"""Certificates for tests: files of a server, and credentials of clients."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
import trustme

from hstreamlite.net.tls import TlsConfig

EXPIRED = datetime(2020, 1, 1, tzinfo=UTC)


class Certificates:
    """An authority, a server it vouches for, and clients."""

    def __init__(self, path: Path) -> None:
        self.authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.stranger = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._path = path
        self.server = self.issue("127.0.0.1", name="server")

    def issue(
        self,
        *identities: str,
        name: str,
        by: trustme.CA | None = None,
        common_name: str | None = None,
        until: datetime | None = None,
    ) -> tuple[Path, Path]:
        """Return files of a certificate and its key."""
        issued = (by or self.authority).issue_cert(
            *identities,
            common_name=common_name,
            key_type=trustme.KeyType.ECDSA,
            not_after=until,
        )
        certificate, key = self._path / f"{name}.pem", self._path / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        return certificate, key

    def config(self, *, mutual: bool = False) -> TlsConfig:
        certificate, key = self.server
        trusted = self._path / "authority.pem"
        self.authority.cert_pem.write_to_path(trusted)
        return TlsConfig(
            certificate=str(certificate),
            key=str(key),
            client_authority=str(trusted) if mutual else None,
        )

    def client(
        self,
        role: str | None = None,
        *,
        by: trustme.CA | None = None,
        trusting: trustme.CA | None = None,
        until: datetime | None = None,
    ) -> grpc.ChannelCredentials:
        """Return credentials of a client; with a role it has a certificate."""
        root = (trusting or self.authority).cert_pem.bytes()
        if role is None:
            return grpc.ssl_channel_credentials(root)
        files = self.issue(f"{role}.example", name=role, by=by, common_name=role, until=until)
        certificate, key = (path.read_bytes() for path in files)
        return grpc.ssl_channel_credentials(root, key, certificate)

    def context(self, role: str | None = None, by: trustme.CA | None = None) -> ssl.SSLContext:
        """Return the same for HTTP."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if role is not None:
            files = self.issue(f"{role}.example", name=role, by=by, common_name=role)
            context.load_cert_chain(*files)
        return context
