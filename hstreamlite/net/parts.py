"""The parts that every server has."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import grpc

from hstreamlite.net.api import HStreamApi
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.hstream_pb2 import DESCRIPTOR
from hstreamlite.net.hstream_pb2_grpc import add_HStreamApiServicer_to_server
from hstreamlite.net.metrics import Metrics
from hstreamlite.net.node import Listener, Node, Service
from hstreamlite.net.part import Part
from hstreamlite.net.rest.part import Rest
from hstreamlite.net.tls import Pems, TlsConfig, readable_by_others
from hstreamlite.net.v1.part import OwnProtocol

log = logging.getLogger("hstreamlite.server")


class HStreamDB(Part):
    """HStreamDB's own protocol."""

    def services(self, node: Node) -> Sequence[Service]:
        descriptor = DESCRIPTOR.services_by_name["HStreamApi"]
        return [Service(descriptor, HStreamApi(node), add_HStreamApiServicer_to_server)]


class Tls(Part):
    """Certificates of the listeners."""

    def __init__(self, config: TlsConfig | None) -> None:
        self._pems = None if config is None else Pems.read(config)
        if config is not None and readable_by_others(config.key):
            log.warning("everybody on this machine may read the key %s: chmod 600 it", config.key)

    def credentials(
        self,
        node: Node,  # noqa: ARG002 - the same for all
        listener: Listener,
    ) -> grpc.ServerCredentials | None:
        pems = self._pems
        if pems is None or listener.plaintext:
            return None
        return grpc.ssl_server_credentials(
            [(pems.key, pems.certificate)],
            root_certificates=pems.client_authority,
            require_client_auth=pems.client_authority is not None,
        )


def standard_parts(config: ServerConfig) -> list[Part]:
    """Return them in the order in which they start. What stands around calls goes by it, too."""
    return [
        Tls(config.tls),
        Metrics(config.metric_labels_max),
        HStreamDB(),
        OwnProtocol(),
        Rest(config.rest),
    ]
