"""What a service manager is told, in the way of `sd_notify`: a datagram to the socket it names."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("hstreamlite.server")


def notify(*facts: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell facts as ``READY=1``. Does nothing where nobody wants to know."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract one
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.connect(address)
            sending.sendall("\n".join(facts).encode())
    except OSError as error:
        log.warning("the service manager cannot be told of %s: %s", facts[0], error)
