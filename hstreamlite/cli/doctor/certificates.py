"""Looks at files of TLS: whether they can be used, belong together, and for how long."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping

from hstreamlite.cli.access import Access
from hstreamlite.cli.doctor import judgement
from hstreamlite.cli.doctor.judgement import Finding
from hstreamlite.net.tls import BadCertificate, Pems, TlsConfig

_PREFIX = "HSTREAMLITE_"
_EXPIRED, _NOT_YET = 10, 9
_FLIGHTS = 8


def of_server(file: str | None, store: str, now: float) -> Iterator[Finding]:
    """Look at those that the settings of a server name, if there are settings."""
    if not file and not _has_settings(os.environ):
        return
    from hstreamlite.net.settings import BadSetting, Given, load

    try:
        config, _, _ = load(file, os.environ, {"store": Given(store, "PATH")})
    except BadSetting as error:
        yield Finding("settings", "fail", str(error), "mend what is named; the server says so, too")
        return
    if config.tls is not None:
        yield from _pair("certificate of the server", config.tls, now)
        if config.tls.client_authority is not None:
            yield from _authorities("authority of clients", config.tls.client_authority, now)


def of_client(access: Access, now: float) -> Iterator[Finding]:
    """Look at those that the command would use itself."""
    if access.tls_cert and access.tls_key:
        files = TlsConfig(certificate=access.tls_cert, key=access.tls_key)
        yield from _pair("certificate to show", files, now, of_client=True)
    if access.tls_ca:
        yield from _authorities("authorities to believe", access.tls_ca, now)


def _has_settings(environment: Mapping[str, str]) -> bool:
    wanted = (f"{_PREFIX}CONFIG", f"{_PREFIX}TLS_")
    return any(name.startswith(wanted) and value for name, value in environment.items())


def _pair(
    check: str, files: TlsConfig, now: float, *, of_client: bool = False
) -> Iterator[Finding]:
    try:
        Pems.read(TlsConfig(certificate=files.certificate, key=files.key))
    except BadCertificate as error:
        advice = "name files in PEM form, the key being that of the certificate"
        yield Finding(check, "fail", str(error).rstrip("."), advice)
        return
    try:
        ends = [_end_of_leaf(files, of_client=of_client), *_ends_of_authorities(files.certificate)]
    except ssl.SSLCertVerificationError as error:
        if error.verify_code != _EXPIRED:
            advice = "look at the clock" if error.verify_code == _NOT_YET else "have it made anew"
            found = f"{files.certificate}: {error.verify_message}"
            yield Finding(check, "fail", found, advice)
            return
        ends = [now]
    yield judgement.certificate(check, files.certificate, min(ends) - now)


def _authorities(check: str, path: str, now: float) -> Iterator[Finding]:
    try:
        ends = _ends_of_authorities(path)
    except OSError as error:  # those of OpenSSL, too
        found = f"{path} cannot be used ({getattr(error, 'reason', None) or error.strerror})"
        yield Finding(check, "fail", found, "name a file of certificates in PEM form")
        return
    if not ends:
        yield Finding(check, "warn", f"{path} has no certificate of an authority", "look at it")
        return
    yield judgement.certificate(check, path, min(ends) - now)


def _ends_of_authorities(path: str) -> list[float]:
    """Return until when those in a file are valid that vouch for others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    return [_seconds(str(found["notAfter"])) for found in context.get_ca_certs()]


def _end_of_leaf(files: TlsConfig, *, of_client: bool) -> float:
    """Return until when a certificate is valid, as one who is shown it finds out.

    SSLCertVerificationError where it is not valid now, or not for a client, or a server.
    """
    asking, answering = (
        ssl.SSLContext(protocol) for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)
    )
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE
    for context in (asking, answering):
        context.load_cert_chain(files.certificate, files.key)
    looking = answering if of_client else asking
    looking.verify_mode = ssl.CERT_REQUIRED
    looking.load_verify_locations(files.certificate)  # it vouches for itself here
    looking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(back, there, server_side=False)
    server = answering.wrap_bio(there, back, server_side=True)
    for side in (client, server) * _FLIGHTS:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = (server if of_client else client).getpeercert()
    assert found is not None
    return _seconds(str(found["notAfter"]))


def _seconds(end: str) -> float:
    return float(ssl.cert_time_to_seconds(end))
