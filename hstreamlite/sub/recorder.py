"""What a group stores of its progress, and when there is something to store.

Acks come without the group's lock at any moment, so the order of looking matters: a window is
marked saved first, then drained, then read. What falls in between is stored too or stays unsaved;
it is never taken for stored without being so.
"""

from collections.abc import Mapping

from hstreamlite.sub.ackmap import Run
from hstreamlite.sub.checkpoint import AttemptRun, ShardProgress, encode
from hstreamlite.sub.leases import Fate, Leases
from hstreamlite.sub.window import Window


class Recorder:
    """Turns windows and leases into pieces of stored progress."""

    def __init__(self, windows: Mapping[int, Window], leases: Leases) -> None:
        self._windows = windows
        self._leases = leases
        self._changed: set[int] = set()
        self._removed: set[int] = set()

    def attempts_changed(self, shard: int) -> None:
        """Note that records of a shard were delivered again, or taken back."""
        self._changed.add(shard)

    def added(self, shard: int) -> None:
        self._removed.discard(shard)

    def removed(self, shard: int) -> None:
        self._changed.discard(shard)
        self._removed.add(shard)

    def settle(self, window: Window, low: int) -> None:
        """Drop the leases of a window that lie below ``low``."""
        while (slot := self._leases.first_of(window.shard)) and slot.end <= low:
            self._leases.drop(slot)

    def unsaved(self) -> bool:
        return bool(
            self._changed
            or self._removed
            or any(window.unsaved() for window in self._windows.values())
        )

    def delta(self) -> tuple[bytes, ...]:
        changed = [
            self._progress_of(window, full=window.saved is None)
            for window in self._windows.values()
            if window.unsaved() or window.shard in self._changed
        ]
        return self._saved(changed, snapshot=False)

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
            )
            for shard, lsn in positions.items()
        )

    @staticmethod
    def _as_if_acked(window: Window, runs: list[Run]) -> ShardProgress:
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
        )

    def snapshot(self) -> tuple[bytes, ...]:
        whole = [self._progress_of(window, full=True) for window in self._windows.values()]
        return self._saved(whole, snapshot=True)

    def _saved(self, shards: list[ShardProgress], *, snapshot: bool) -> tuple[bytes, ...]:
        removed = () if snapshot else tuple(sorted(self._removed))
        self._changed.clear()
        self._removed.clear()
        if not shards and not removed and not snapshot:
            return ()
        return encode(shards, removed=removed, snapshot=snapshot)

    def _progress_of(self, window: Window, *, full: bool) -> ShardProgress:
        shard = window.shard
        window.mark_saved()
        dirty = window.acks.drain()
        self._drop_done(window, dirty)
        state = window.acks.state
        self.settle(window, state.low)
        redo = full or shard in self._changed or state.held > 0 or window.saved_zeros
        attempts = self._attempts_of(window) if redo else []
        window.saved_zeros = any(count == 0 for _, _, count in attempts)
        acked = window.acks.acked_runs(state.low, state.next) if full else dirty
        return ShardProgress(
            shard=shard,
            full=full,
            generation=window.generation,
            origin=state.origin,
            low=state.low,
            next=state.next,
            acked=[(max(a, state.low), b) for a, b in acked if b > state.low],
            attempts=attempts,
            forget_attempts=redo,
        )

    def _drop_done(self, window: Window, dirty: list[Run]) -> None:
        """Drop the leases that have no unacked record left, looking where something was acked."""
        seen = 0
        for first, end in dirty:
            for slot in list(self._leases.within(window.shard, max(first, seen), end)):
                seen = slot.end
                if not window.acks.count_unacked(slot.first, slot.end):
                    self._leases.drop(slot)

    def _attempts_of(self, window: Window) -> list[AttemptRun]:
        """Return the runs whose records were not delivered exactly once."""
        low = window.low
        runs = []
        for slot in self._leases.of_shard(window.shard):
            count = slot.attempt - (slot.fate is not Fate.IN_FLIGHT)
            if count != 1 and slot.end > low:
                runs.append((max(slot.first, low), slot.end, count))
        return runs
