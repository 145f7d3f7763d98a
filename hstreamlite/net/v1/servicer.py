"""The service, put together of its parts."""

from __future__ import annotations

from hstreamlite.net.v1.commits import Commits
from hstreamlite.net.v1.consuming import Consuming
from hstreamlite.net.v1.producing import Producing
from hstreamlite.net.v1.streams import Streams
from hstreamlite.net.v1.subscriptions import Subscriptions


class Servicer(Streams, Subscriptions, Consuming, Commits, Producing):
    """Serves `hstreamlite.v1.HStreamLite`."""
