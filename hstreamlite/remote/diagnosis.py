"""What keeps a connection from being made, in words of what to do about it."""

from __future__ import annotations

from typing import Final

_SHOW: Final = "give `certificate` and `key`, or --tls-cert and --tls-key"
_ABSENT: Final = "No such file or directory"
_SIGNS: Final = (
    ("WRONG_VERSION_NUMBER", "it speaks plain text there, not TLS: take hstream://"),
    ("http1.x server", "HTTP is served at that port; gRPC is at another, 6570 where none is set"),
    ("is not in peer certificate", "its certificate names other hosts: dial one of those"),
    ("Hostname Verification", "its certificate names other hosts: dial one of those"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is of no authority known here: name that one with `ca`, or --tls-ca",
    ),
    ("CERTIFICATE_REQUIRED", f"it wants to see a certificate: {_SHOW}"),
    ("Connection refused", "nothing listens there"),
    (_ABSENT, "there is no socket"),
    ("Domain name not found", "there is no host of this name"),
)
"""What gRPC's text of a failed connection says where, the first that fits."""


def explained(details: str, *, secure: bool, socket: str = "") -> str:
    """Return what the text that gRPC has for a failed connection means."""
    if socket and _ABSENT in details:
        return f"{socket} is not there"
    if "Socket closed" in details:
        advice = f"wants a certificate, {_SHOW}" if secure else "speaks TLS, take hstreams://"
        return f"it closes connections at once: where it {advice}"
    return next((meaning for sign, meaning in _SIGNS if sign in details), details)
