"""The modes of delivery, and what decides in each who gets what."""

from typing import Final

from hstreamlite.sub.dispatch import SharedDispatcher
from hstreamlite.sub.ordered import OrderedDispatcher
from hstreamlite.sub.sharded import ShardDispatcher

Dispatcher = SharedDispatcher | OrderedDispatcher

DISPATCHERS: Final[dict[str, type[SharedDispatcher] | type[OrderedDispatcher]]] = {
    "ordered": OrderedDispatcher,
    "shared": SharedDispatcher,
    "sharded": ShardDispatcher,
}
