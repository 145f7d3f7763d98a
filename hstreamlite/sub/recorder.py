"""What a group stores of its progress, and when there is something to store.

Acks come without the group's lock at any moment, so the order of looking matters: a window is
marked saved first, then drained, then read. What falls in between is stored too or stays unsaved;
it is never taken for stored without being so.
"""

from bisect import bisect_right
from collections.abc import Mapping
from operator import itemgetter

from hstreamlite.sub.ackmap import Run
from hstreamlite.sub.checkpoint import ShardProgress, encode
from hstreamlite.sub.modes import Dispatcher
from hstreamlite.sub.window import Window


class Recorder:
    """Turns windows and what is delivered of them into pieces of stored progress.

    Of the shards in ``changed`` records were delivered again, or taken back.
    """

    def __init__(
        self, windows: Mapping[int, Window], dispatch: Dispatcher, changed: set[int]
    ) -> None:
        self._windows = windows
        self._dispatch = dispatch
        self._changed = changed

    def _unsaved(self, window: Window) -> bool:
        return (
            window.unsaved() or window.shard in self._changed or self._dispatch.untold(window.shard)
        )

    def delta(self) -> tuple[bytes, ...]:
        pieces: list[bytes] = []
        changed = []
        for window in self._windows.values():
            window.disarm()
            piece = self._dispatch.piece(window)
            if piece:
                pieces.append(piece)
                self._dispatch.settle(window, window.low)
            elif piece is None and self._unsaved(window):
                changed.append(self._progress_of(window, full=window.saved is None))
        return *pieces, *self._saved(changed, snapshot=False)

    def acked_delta(self, runs: Mapping[int, list[Run]]) -> tuple[bytes, ...]:
        """Return what makes ``runs`` count as acked when it is stored behind a `delta`."""
        if not runs:
            return ()
        return encode(self._as_if_acked(self._windows[shard], runs[shard]) for shard in runs)

    def sought_delta(self, positions: Mapping[int, int]) -> tuple[bytes, ...]:
        """Return what makes the shards stand at these LSNs, nothing of them delivered yet."""
        return encode(
            ShardProgress(
                shard=shard,
                full=True,
                generation=self._windows[shard].generation + 1,
                origin=lsn,
                low=lsn,
                next=lsn,
                acked=[],
                attempts=[],
                forget_attempts=True,
                listed=self._dispatch.listed,
            )
            for shard, lsn in positions.items()
        )

    def _as_if_acked(self, window: Window, runs: list[Run]) -> ShardProgress:
        state = window.acks.state
        return ShardProgress(
            shard=window.shard,
            full=False,
            generation=window.generation,
            origin=state.origin,
            low=state.low,
            next=state.next,
            acked=sorted(runs),
            attempts=[],
            forget_attempts=False,
            listed=self._dispatch.listed,
        )

    def snapshot(self) -> tuple[bytes, ...]:
        whole = [self._progress_of(window, full=True) for window in self._windows.values()]
        return self._saved(whole, snapshot=True)

    def _saved(self, shards: list[ShardProgress], *, snapshot: bool) -> tuple[bytes, ...]:
        self._changed.clear()
        if not shards and not snapshot:
            return ()
        return encode(shards, snapshot=snapshot)

    def _progress_of(self, window: Window, *, full: bool) -> ShardProgress:
        shard = window.shard
        window.disarm()
        window.mark_saved()
        dirty = window.acks.drain()
        attempts, forget = self._dispatch.history(window, dirty, full=full)
        state = window.acks.state
        acked = window.acks.acked_runs(state.low, state.next) if full else dirty
        return ShardProgress(
            shard=shard,
            full=full,
            generation=window.generation,
            origin=state.origin,
            low=state.low,
            next=state.next,
            acked=_above(state.low, acked),
            attempts=attempts,
            forget_attempts=forget,
            listed=self._dispatch.listed,
        )


def _above(low: int, runs: list[Run]) -> list[Run]:
    """Return what of ascending runs lies at ``low`` or above."""
    above = runs[bisect_right(runs, low, key=itemgetter(1)) :]
    if above and above[0][0] < low:
        above[0] = low, above[0][1]
    return above
