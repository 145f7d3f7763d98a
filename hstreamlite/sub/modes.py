"""The modes of delivery, and what decides in each who gets what."""

from typing import Final

from hstreamlite.sub.dispatch import SharedDispatcher
from hstreamlite.sub.ordered import OrderedDispatcher

Dispatcher = SharedDispatcher | OrderedDispatcher

DISPATCHERS: Final[dict[str, type[SharedDispatcher] | type[OrderedDispatcher]]] = {
    "ordered": OrderedDispatcher,
    "shared": SharedDispatcher,
}
