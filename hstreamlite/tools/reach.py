"""From where on the catalog cannot say whether a log held more."""

from __future__ import annotations

from dataclasses import dataclass, field

from hstreamlite.log.catalog import Change

Place = tuple[int, int]
"""Where a segment stands (see `Look`), and offset in it."""


@dataclass(slots=True)
class Reach:
    """What catalog records tell of the extent of logs, applied in order."""

    places: dict[int, Place] = field(default_factory=dict)
    """By shard: what stood before that place held nothing beyond the next LSN known there."""
    _known: int | None = None
    """Newest segment when the snapshot being read was made."""

    def note(self, change: Change, place: Place) -> None:
        """Take in a record that ends at a place."""
        kind = change["op"]
        if kind == "snapshot":
            self._known = change["known"]
        elif kind == "snapshot_end":
            self._known = None
        elif kind == "logs" and self._known is not None:
            # What was on its way then came to stand in that segment, or behind it.
            for shard, *_ in change["logs"]:
                self._raise(shard, (self._known, 0))
        elif kind == "stream" and self._known is None:
            for shard in change["shard_ids"]:
                if shard not in self.places:
                    self._raise(shard, place)

    def _raise(self, shard: int, place: Place) -> None:
        self.places[shard] = max(place, self.places.get(shard, (0, 0)))
