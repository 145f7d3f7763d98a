"""What a group looks like from outside: its counters, and why it stands still."""

from collections.abc import Iterable, Mapping

from hstreamlite.sub.dispatch import SharedDispatcher
from hstreamlite.sub.effects import GroupStats, Lag
from hstreamlite.sub.events import EventLog
from hstreamlite.sub.leases import WAITING, Fate, Leases
from hstreamlite.sub.limits import TIME_MAX_NS, Limits
from hstreamlite.sub.window import Window


def lag_of(windows: Iterable[Window]) -> Lag:
    unacked = backlog = 0
    for window in windows:
        unacked += window.unacked()
        backlog += window.backlog()
    return Lag(unacked, backlog)


class Survey:
    """Reads a group's parts; linear in its slots."""

    def __init__(
        self,
        limits: Limits,
        windows: Mapping[int, Window],
        leases: Leases,
        dispatch: SharedDispatcher,
        events: EventLog,
    ) -> None:
        self._limits = limits
        self._windows = windows
        self._leases = leases
        self._dispatch = dispatch
        self._events = events

    def stats(self, consumers: tuple[str, ...], *, paused: bool) -> GroupStats:
        lag = lag_of(self._windows.values())
        outstanding = self._dispatch.outstanding()
        waiting = doomed = 0
        for window in self._windows.values():
            for slot in self._leases.of_shard(window.shard):
                if slot.fate in WAITING:
                    waiting += window.acks.count_unacked(slot.first, slot.end)
                elif slot.fate is Fate.DOOMED:
                    doomed += window.acks.count_unacked(slot.first, slot.end)
        blocked = "paused" if paused else self._blocked(outstanding)
        return GroupStats(
            consumers=consumers,
            paused=paused,
            unacked=lag.unacked,
            reserved=sum(window.acks.state.held for window in self._windows.values()),
            in_flight=outstanding - waiting - doomed,
            waiting=waiting,
            backlog=lag.backlog,
            gaps=self._events.gaps,
            gap_records=self._events.gap_records,
            blocked=blocked if paused or consumers else "no consumers",
            doomed=doomed,
        )

    def _blocked(self, outstanding: int) -> str:
        if any(self._dispatch.next_ready(shard) for shard in self._leases.ready_shards()):
            return ""
        backed_up = [window for window in self._windows.values() if window.tail > window.next]
        if not backed_up:
            return "no records"
        if outstanding >= self._limits.max_unacked:
            oldest = min(self._dispatch.open_windows(), key=self._due_of_low)
            return f"window full: oldest unacked id {oldest.shard}-{oldest.low}"
        if all(window.span_full() for window in backed_up):
            window = backed_up[0]
            return f"span full: oldest unacked id {window.shard}-{window.low}"
        return ""

    def _due_of_low(self, window: Window) -> int:
        low = window.low
        for slot in self._leases.within(window.shard, low, low + 1):
            return TIME_MAX_NS if slot.due_ns is None else slot.due_ns
        return TIME_MAX_NS
