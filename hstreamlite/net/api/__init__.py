"""The servicer of HStreamDB's protocol: every call, by what it is about."""

from __future__ import annotations

from hstreamlite.net.api.appends import Appends
from hstreamlite.net.api.bykey import ByKey
from hstreamlite.net.api.cluster import Cluster
from hstreamlite.net.api.fetch import Fetch
from hstreamlite.net.api.readers import Readers
from hstreamlite.net.api.stats import Stats
from hstreamlite.net.api.streams import Streams
from hstreamlite.net.api.subscriptions import Subscriptions
from hstreamlite.net.api.unserved import Unserved, refuse_others


class HStreamApi(Cluster, Streams, Appends, Subscriptions, Fetch, Readers, ByKey, Stats, Unserved):
    """All calls of `hstream.server.HStreamApi`.

    They raise what goes wrong; who calls them says it in the words of its own protocol.
    """


refuse_others(HStreamApi)
