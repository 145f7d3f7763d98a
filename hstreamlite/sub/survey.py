"""What a group looks like from outside: its counters, and why it stands still."""

from collections.abc import Iterable, Mapping

from hstreamlite.sub.effects import GroupStats, Holding, Lag
from hstreamlite.sub.events import EventLog
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.modes import Dispatcher
from hstreamlite.sub.names import Names
from hstreamlite.sub.window import Window


def lag_of(windows: Iterable[Window], dispatch: Dispatcher) -> Lag:
    unacked = backlog = 0
    for window in windows:
        undelivered = dispatch.undelivered(window)
        unacked += window.outstanding() - undelivered
        backlog += max(0, window.tail - window.next) + undelivered
    return Lag(unacked, backlog)


class Survey:
    """Reads a group's parts; linear in what is delivered."""

    def __init__(
        self,
        limits: Limits,
        windows: Mapping[int, Window],
        dispatch: Dispatcher,
        events: EventLog,
        loads: Loads,
    ) -> None:
        self._limits = limits
        self._windows = windows
        self._dispatch = dispatch
        self._events = events
        self._loads = loads

    def stats(
        self, consumers: tuple[str, ...], names: Names, *, paused: bool, unburied: str
    ) -> GroupStats:
        lag = lag_of(self._windows.values(), self._dispatch)
        waiting, doomed = self._dispatch.count_waiting()
        return GroupStats(
            consumers=consumers,
            paused=paused,
            unacked=lag.unacked,
            reserved=sum(map(self._dispatch.undelivered, self._windows.values())),
            in_flight=self._dispatch.outstanding() - waiting - doomed,
            waiting=waiting,
            backlog=lag.backlog,
            gaps=self._events.gaps,
            gap_records=self._events.gap_records,
            blocked=self.blocked(consumers, names, paused=paused, unburied=unburied),
            doomed=doomed,
            in_flight_bytes=self._loads.bytes_of_all(),
            damaged=sum(end - first for _, first, end in self._dispatch.damaged()),
        )

    def blocked(
        self, consumers: Iterable[str], names: Names, *, paused: bool, unburied: str
    ) -> str:
        """Return why nothing new can be dispatched, or an empty text.

        ``unburied`` tells why what is doomed could not be moved, if it could not.
        """
        if paused:
            return "paused"
        attached = list(consumers)
        if not attached:
            return "no consumers"
        why = self._blocked(self._dispatch.outstanding(), names)
        if not why and self._loads.narrow and all(map(self._own_full, attached)):
            why = "own windows of all consumers full"
        if why and unburied and not why.startswith("own") and self._dispatch.count_waiting()[1]:
            return f"doomed records cannot be moved: {unburied}"
        damaged = self._dispatch.damaged()
        # Where a shard is one unit, what lies behind the damage is not even looked at.
        held = why or any(map(self._dispatch.can_assign, attached))
        if damaged and (not held or why == "no records" or why.startswith("keys blocked")):
            shard, first, end = damaged[0]
            first_id, last_id = names.id(shard, first), names.id(shard, end - 1)
            why = f"damaged: records {first_id} to {last_id} cannot be read"
        return why

    def _own_full(self, consumer: str) -> str:
        """Return which of its own windows is full, as a setting has it, or an empty text."""
        if self._dispatch.quota(consumer):
            return ""
        what = "max_unacked_bytes" if self._loads.full_of(consumer) else "max_unacked"
        return f"own window is full ({what}_per_consumer)"

    def _blocked(self, outstanding: int, names: Names) -> str:
        if self._dispatch.can_resend() and not self._loads.full():
            return ""
        backed_up = [*filter(self._dispatch.backed_up, self._windows.values())]
        if not backed_up and not self._dispatch.can_resend():
            return "no records"
        what, window = self._full(backed_up, outstanding)
        if window is None:
            return ""
        return f"{what}: oldest unacked id {names.told(window.shard, window.low)}"

    def _full(self, backed_up: list[Window], outstanding: int) -> tuple[str, Window | None]:
        """Return which limit is reached, and the window whose oldest record is what to look at."""
        if self._loads.full():
            return "window full (max_unacked_bytes)", self._oldest()
        if outstanding >= self._limits.max_unacked:
            return "window full (max_unacked)", self._oldest()
        if all(window.span_full() for window in backed_up):
            return "span full", backed_up[0]
        return "keys blocked", self._dispatch.key_blocked()

    def _oldest(self) -> Window:
        return min(self._dispatch.open_windows(), key=self._due_of_low)

    def holdings(
        self, consumers: Iterable[str], line: Iterable[str], *, paused: bool
    ) -> tuple[Holding, ...]:
        """Return what each consumer holds; linear in its slots."""
        in_line = frozenset(line)
        blocker = None
        backed_up = [*filter(self._dispatch.backed_up, self._windows.values())]
        if backed_up and not paused:
            _, window = self._full(backed_up, self._dispatch.outstanding())
            blocker = (window.shard, window.low) if window else None
        return tuple(
            self._holding(name, blocker, waiting=name in in_line, paused=paused)
            for name in consumers
        )

    def _holding(
        self, name: str, blocker: tuple[int, int] | None, *, waiting: bool, paused: bool
    ) -> Holding:
        held = self._dispatch.in_flight_of(name)
        due_ns, shard, lsn, _, _ = min(held, default=(None, 0, 0, 0, 0))
        return Holding(
            consumer=name,
            unacked=sum(count for *_, count in held),
            oldest=(shard, lsn) if held else None,
            due_ns=due_ns,
            waiting=waiting,
            blocks=any((at, first) <= blocker < (at, end) for _, at, first, end, _ in held)
            if blocker
            else False,
            full=self._own_full(name),
            could_take=not paused and self._dispatch.can_assign(name),
            bytes=self._loads.bytes_of(name),
        )

    def done(self) -> int:
        """Return a number that changes whenever a record is acked."""
        return sum(
            state.low + state.acked
            for state in (window.acks.state for window in self._windows.values())
        )

    def _due_of_low(self, window: Window) -> int:
        return self._dispatch.due_of(window.shard, window.low)
