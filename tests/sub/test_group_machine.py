"""The group against the reference: several consumers, time, loss, gaps, seeks and restarts."""

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hstreamlite._native import fast
from hstreamlite.errors import ConsumerClosed, ConsumerExists, UnknownRecord
from hstreamlite.sub.ackmap import AckCounts, AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.effects import Assignment, Event, Gap, Sought
from hstreamlite.sub.group import Group
from hstreamlite.sub.keytab import run_bytes
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.retry import Backoff, RetryPolicy
from hstreamlite.testing.group_model import CONSUMERS, GroupModel, size_of
from tests import effort
from tests.sub.taking import taken

TIMEOUT = 1_000_000
GATE = fast.AckGate()
STARTS = {7: 1, 9: 130, 1 << 41: 2**33}


class GroupMachine(RuleBasedStateMachine):
    @initialize(
        max_unacked=st.integers(1, 40),
        per_consumer=st.one_of(st.just(0), st.integers(1, 20)),
        bytes_out=st.one_of(st.just(0), st.just(0), st.integers(1, 300)),
        bytes_at_each=st.one_of(st.just(0), st.just(0), st.integers(1, 200)),
        span=st.integers(1, 80),
        tails=st.lists(st.integers(0, 60), min_size=1, max_size=3),
        consumers=st.sets(st.sampled_from(CONSUMERS)),
        wild=st.booleans(),
        keys=st.integers(1, 6),
        retry=st.builds(
            RetryPolicy,
            max_attempts=st.integers(0, 4),
            backoff=st.sampled_from([None, Backoff(first=0.001, most=0.004)]),
        ),
    )
    def start(
        self,
        max_unacked: int,
        per_consumer: int,
        span: int,
        tails: list[int],
        consumers: set[str],
        wild: bool,
        keys: int,
        retry: RetryPolicy,
        bytes_out: int = 0,
        bytes_at_each: int = 0,
    ) -> None:
        self.wild = wild
        self.keys = keys
        self.limits = Limits(
            ack_timeout_ns=TIMEOUT,
            max_unacked=max_unacked,
            max_unacked_per_consumer=per_consumer,
            max_unacked_bytes=bytes_out,
            max_unacked_bytes_per_consumer=bytes_at_each,
            span_records=span,
            checkpoint_acks=5,
            retry=retry,
        )
        self.model = self.new_model()
        self.group = self.new_group()
        self.starts = dict(list(STARTS.items())[: len(tails)])
        for (shard, first), count in zip(self.starts.items(), tails, strict=True):
            self.group.add_shard(shard, first)
            self.model.add_shard(shard, first)
            self.model.shards[shard].tail += count
            self.group.offer(shard, first + count)
        self.events: list[Event] = []
        self.unheard: list[Event] = []
        self.before: dict[tuple[str, bool], list[Event]] = {}
        self.told: dict[str, int] = {}
        self.told_gaps: dict[str, int] = {}
        for name in sorted(consumers):
            self.attach(name, None)
        self.pieces: list[bytes] = []
        self.taken = 0
        self.lows: dict[int, int] = dict(self.starts)

    def new_model(self) -> GroupModel:
        return GroupModel(self.limits)

    def new_group(self) -> Group:
        return Group("billing", self.limits)

    def draw_shard(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.starts)))

    def draw_lsn(self, data: st.DataObject, shard: int) -> int:
        model = self.model.shards[shard]
        low = model.low()
        return data.draw(
            st.one_of(
                st.integers(low, max(low, model.next - 1)),
                st.integers(max(0, low - 4), model.next + 2),
                st.integers(max(0, model.seen[0] - 1), model.seen[1] + 1),
            )
        )

    @rule(data=st.data(), count=st.integers(0, 30))
    def offer(self, data: st.DataObject, count: int) -> None:
        shard = self.draw_shard(data)
        model = self.model.shards[shard]
        model.tail += count
        self.group.offer(shard, model.tail)

    @rule(
        name=st.sampled_from(CONSUMERS),
        lease=st.sampled_from([None, None, None, TIMEOUT, TIMEOUT * 3]),
    )
    def attach(self, name: str, lease: int | None) -> None:
        self.model.miss()
        if name in self.model.consumers:
            with pytest.raises(ConsumerExists):
                self.group.attach(name, self.model.now, lease)
            return
        self.group.attach(name, self.model.now, lease)
        self.model.attach(name, lease)
        self.told[name] = self.told_gaps[name] = len(self.events)
        self.before[name, True] = self.before[name, False] = self.unheard
        self.unheard = []

    @rule(name=st.sampled_from(CONSUMERS))
    def renew(self, name: str) -> None:
        self.model.miss()
        if name not in self.model.consumers:
            with pytest.raises(ConsumerClosed):
                self.group.renew(name, self.model.now)
            return
        assert self.group.renew(name, self.model.now) == self.model.renew(name)

    @rule()
    def ask_who_is_gone(self) -> None:
        self.model.miss()
        assert self.group.gone(self.model.now) == tuple(self.model.gone)
        self.model.gone.clear()

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data(), gaps=st.booleans())
    def ask_what_happened(self, data: st.DataObject, gaps: bool) -> None:
        name = data.draw(st.sampled_from(self.model.consumers))
        told = self.told_gaps if gaps else self.told
        since = self.before.pop((name, gaps), []) + self.events[told[name] :]
        told[name] = len(self.events)
        if gaps:
            assert list(self.group.gaps(name)) == [e for e in since if isinstance(e, Gap)]
        else:
            assert list(self.group.events(name)) == since

    @rule(name=st.sampled_from(CONSUMERS))
    def detach(self, name: str) -> None:
        self.model.miss()
        if name not in self.model.consumers:
            with pytest.raises(ConsumerClosed):
                self.group.detach(name, self.model.now)
            return
        assert self.group.detach(name, self.model.now) == self.model.detach(name)

    @precondition(lambda self: set(CONSUMERS) - set(self.model.consumers))
    @rule(data=st.data())
    def use_a_closed_consumer(self, data: st.DataObject) -> None:
        closed = sorted(set(CONSUMERS) - set(self.model.consumers))
        name = data.draw(st.sampled_from(closed))
        self.model.tick()
        with pytest.raises(ConsumerClosed):
            self.group.fetch(name, 5, self.model.now, queue=True)

    @precondition(lambda self: self.model.consumers)
    @rule(
        data=st.data(),
        most=st.one_of(st.integers(1, 12), st.just(1_000)),
        queue=st.booleans(),
        confirm=st.booleans(),
    )
    def fetch(self, data: st.DataObject, most: int, queue: bool, confirm: bool) -> None:
        model, group = self.model, self.group
        name = data.draw(st.sampled_from(model.consumers))
        model.tick()
        if name not in model.consumers:
            with pytest.raises(ConsumerClosed):
                group.fetch(name, most, model.now, queue=queue)
            return
        expected = model.expected_count(name, most)
        before = {shard: of.next for shard, of in model.shards.items()}
        due = model.ready()
        got = group.fetch(name, most, model.now, queue=queue)
        count = sum(a.end_lsn - a.first_lsn for a in got)
        if not got and expected and not model.paused:
            head = group.next_in_line(model.now)
            assert head not in (None, name), "nobody else's turn, yet nothing was given"
        else:
            assert count == (0 if model.paused else expected), "S6"
        model.reserve(name, got)
        model.check_order(before, got)
        sent = {(a.shard_id, n) for a in got for n in range(a.first_lsn, a.end_lsn)}
        assert not sent - due or due <= sent, "S7: new records before those due again"
        if confirm:
            for assigned in got:
                self.do_confirm(assigned.lease, assigned.end_lsn)

    @precondition(lambda self: self.model.consumers and self.group.hatch())
    @rule(
        data=st.data(),
        most=st.integers(1, 12),
        behind=st.integers(0, 2),
        read=st.integers(0, 40),
    )
    def take_at_the_hatch(self, data: st.DataObject, most: int, behind: int, read: int) -> None:
        """What is taken is what a fetch would have handed out; else nothing happens."""
        model, group = self.model, self.group
        name = data.draw(st.sampled_from(model.consumers))
        ((shard, of),) = model.shards.items()
        first = max(1, of.next - behind)
        hatch = group.hatch()
        assert isinstance(hatch, fast.Hatch)
        number = group.hatch_number(name)
        run = taken(hatch, GATE, first, first + read, most, number, model.now)
        if run is None:
            return
        due = model.next_deadline()
        assert due is None or due > model.now, "something has to be sent again first"
        assert not model.paused
        assert not model.ready()
        assert group.next_in_line(model.now) is None, "somebody waits"
        assert run == (of.next, of.next + model.expected_count(name, most))
        self.taken += 1
        model.reserve(name, (Assignment(shard, *run, 1, -self.taken),))
        assert model.confirm(-self.taken, run[1]) == run
        group.took(name, run[1] - run[0])

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.model.leases)))
        _, assigned = self.model.leases[lease]
        self.do_confirm(lease, data.draw(st.integers(assigned.first_lsn - 1, assigned.end_lsn + 1)))

    def do_confirm(self, lease: int, end: int) -> None:
        _, assigned = self.model.leases[lease]
        shard = self.model.shards[assigned.shard_id]
        wanted = range(assigned.first_lsn, min(assigned.end_lsn, end))
        all_done = all(shard.done(lsn) for lsn in range(assigned.first_lsn, assigned.end_lsn))
        sizes = [size_of(assigned.shard_id, lsn) for lsn in range(assigned.first_lsn, end)]
        got = self.group.confirm(lease, end, self.model.now, sizes)
        expected = self.model.confirm(lease, end)
        if got is None and all_done:
            return
        assert got == expected, wanted

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        shard = self.draw_shard(data)
        lsn = self.draw_lsn(data, shard)
        expected = self.model.ack(shard, lsn)
        if expected == AckFlag.UNKNOWN:
            with pytest.raises(UnknownRecord):
                self.group.ack(shard, lsn)
            return
        flags = self.group.ack(shard, lsn)
        assert flags & ~AckFlag.ATTENTION == expected
        if flags & AckFlag.ATTENTION:
            self.group.attend()

    @rule(data=st.data(), count=st.integers(1, 30), ranged=st.booleans())
    def ack_several(self, data: st.DataObject, count: int, ranged: bool) -> None:
        shard = self.draw_shard(data)
        first = self.draw_lsn(data, shard)
        step = 1 if ranged else data.draw(st.integers(1, 3))
        lsns = list(range(first, first + count, step))

        def call() -> AckCounts:
            if ranged:
                return self.group.ack_range(shard, first, first + count)
            return self.group.ack_runs(shard, b"".join(run_bytes(lsn, 1, 1) for lsn in lsns))

        if not self.model.acceptable(shard, lsns):
            if ranged:
                with pytest.raises(UnknownRecord):
                    call()
            return
        flags = [self.model.ack(shard, lsn) for lsn in lsns]
        got = call()
        assert got[:3] == tuple(
            flags.count(kind) for kind in (AckFlag.NEW, AckFlag.DUPLICATE, AckFlag.VOID)
        )
        if got.flags & AckFlag.ATTENTION:
            self.group.attend()

    @rule()
    def ack_of_a_foreign_shard(self) -> None:
        for call in (
            lambda: self.group.ack(5, 1),
            lambda: self.group.ack_range(5, 1, 2),
            lambda: self.group.ack_runs(5, run_bytes(1, 1, 1)),
        ):
            with pytest.raises(UnknownRecord):
                call()

    @precondition(lambda self: self.model.consumers)
    @rule(
        data=st.data(),
        count=st.integers(1, 9),
        after=st.sampled_from([None, 0, 1, TIMEOUT // 2, TIMEOUT * 3]),
        reason=st.sampled_from(["", "poison"]),
        how=st.sampled_from(["release", "extend", "unsend"]),
    )
    def release_or_extend(
        self, data: st.DataObject, count: int, after: int | None, reason: str, how: str
    ) -> None:
        name = data.draw(st.sampled_from(self.model.consumers))
        self.model.miss()
        if name not in self.model.consumers:
            with pytest.raises(ConsumerClosed):
                self.group.release(name, self.draw_shard(data), 1, 2, after, self.model.now)
            return
        holding = [held for other in self.model.consumers for held in self.model.held_by(other)]
        if holding:
            shard, first = data.draw(st.sampled_from(holding))
        else:
            shard = self.draw_shard(data)
            first = self.draw_lsn(data, shard)
        run = name, shard, first, first + count
        now = self.model.now
        if how == "unsend":
            assert self.group.unsend(*run, now) == self.model.unsend(*run)
        elif how == "extend":
            by = (after or 0) + 1
            assert self.group.extend(*run, by, now) == self.model.extend(*run, by)
        else:
            got = self.group.release(*run, after, now, reason)
            assert got == self.model.release(*run, after, reason or "released")

    @rule(step=st.sampled_from([1, TIMEOUT // 3, TIMEOUT, TIMEOUT * 2]), tick=st.booleans())
    def pass_time(self, step: int, tick: bool) -> None:
        self.model.now += step
        if tick:
            self.model.tick()
            self.group.tick(self.model.now)

    @rule()
    def sleep_until_deadline(self) -> None:
        due = self.group.next_deadline()
        wanted = self.model.next_deadline()
        if wanted is not None:
            assert due is not None
            assert due <= wanted, "S7: the shell would wake too late"
        if due is not None:
            self.model.now = max(self.model.now, due)
            self.model.tick()
            self.group.tick(self.model.now)

    @rule(limit=st.integers(1, 30), put_off=st.booleans())
    def bury(self, limit: int, put_off: bool) -> None:
        group, model = self.group, self.model
        doomed = model.doomed()
        got = group.doomed(limit)
        records = [(d.shard_id, n) for d in got for n in range(d.first_lsn, d.end_lsn)]
        assert len(records) == min(limit, len(doomed)), "a doomed record is lost"
        assert len(set(records)) == len(records)
        for shard, first, end, attempts, reason in got:
            assert {doomed[shard, lsn] for lsn in range(first, end)} == {(attempts, reason)}
            assert group.is_doomed(shard, first, end)
            assert not group.is_doomed(shard, first, end + 1) or (shard, end) in doomed
            if put_off:
                group.put_off(shard, first)
            else:
                assert group.ack_range(shard, first, end).new == end - first
                for lsn in range(first, end):
                    model.ack(shard, lsn)

    @rule(name=st.sampled_from(CONSUMERS))
    def leave_line(self, name: str) -> None:
        self.group.leave_line(name)

    @rule(data=st.data(), name=st.sampled_from(CONSUMERS))
    def held_by(self, data: st.DataObject, name: str) -> None:
        shard = self.draw_shard(data)
        first = self.draw_lsn(data, shard)
        end = first + data.draw(st.integers(1, 6))
        records = self.model.shards[shard].records
        expected = all(
            lsn in records
            and records[lsn].owner == name
            and records[lsn].deadline is not None
            and not self.model.shards[shard].done(lsn)
            for lsn in range(first, end)
        )
        assert self.group.held_by(name, shard, first, end) == expected

    @precondition(lambda self: self.wild)
    @rule(data=st.data(), edge=st.booleans())
    def gap(self, data: st.DataObject, edge: bool) -> None:
        shard = self.draw_shard(data)
        model = self.model.shards[shard]
        low = model.low()
        first_kept = data.draw(st.integers(max(1, low - 2), min(model.tail, low + 20) + 2))
        end = first_kept
        if edge:
            held = [lsn for lsn in model.open() if model.records[lsn].deadline is not None]
            end = min([first_kept, *held])
        lost, unseen = self.model.gap(shard, end) if end > low else (0, 0)
        got = (self.group.pass_edge if edge else self.group.gap)(shard, first_kept)
        if lost == 0:
            assert got is None
            return
        assert got is not None
        assert (got.records, got.undelivered) == (lost, unseen)
        self.events.append(got)
        if not self.model.consumers:
            self.unheard.append(got)

    @precondition(lambda self: self.wild)
    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        shard = self.draw_shard(data)
        model = self.model.shards[shard]
        lsn = data.draw(st.integers(max(1, self.starts[shard] - 5), model.tail + 3))
        self.group.seek({shard: lsn}, "there")
        self.model.seek(shard, lsn)
        self.events.append(Sought("there", ((shard, lsn),)))
        self.lows[shard] = lsn

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.model.paused = paused
        (self.group.pause if paused else self.group.resume)()

    @rule(snapshot=st.booleans())
    def store(self, snapshot: bool) -> None:
        pieces = self.group.snapshot() if snapshot else self.group.delta()
        assert pieces or not snapshot
        assert self.group.delta() == ()
        self.pieces.extend(pieces)

    @precondition(lambda self: self.wild)
    @rule(data=st.data(), whole=st.booleans(), store=st.sampled_from([None, False, True]))
    def restart(self, data: st.DataObject, whole: bool, store: bool | None) -> None:
        if store is not None:
            self.store(store)
        size = len(self.pieces)
        keep = size if whole else data.draw(st.integers(0, size))
        del self.pieces[keep:]
        progress = Progress()
        for piece in self.pieces:
            progress.apply(piece)
        truth = self.model
        truth.restart(progress, self.starts, exact=whole and store is not None)
        self.group = self.new_group()
        self.group.restore(progress)
        for shard, model in truth.shards.items():
            if shard not in progress.shards:
                self.group.add_shard(shard, self.starts[shard])
            self.group.offer(shard, model.tail)
            self.lows[shard] = model.low()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "group"):
            return
        self.group.check_invariants()
        outstanding = self.model.outstanding()
        unacked = backlog = 0
        for shard, model in self.model.shards.items():
            low, end = self.group.position(shard)
            assert (low, end) == (model.low(), model.next)
            assert low >= self.lows[shard], "S10: progress moves back"
            self.lows[shard] = low
            never = [lsn for lsn in model.open() if model.records[lsn].deliveries == 0]
            unacked += len(model.open()) - len(never)
            backlog += len(never) + max(0, model.tail - model.next)
        assert outstanding <= self.limits.max_unacked, "S6"
        for name in self.model.consumers:
            held = len(self.model.held_by(name))
            assert held <= (self.limits.max_unacked_per_consumer or held), "S6 per consumer"
            self.check_bytes(name)
        assert self.group.lag() == type(self.group.lag())(unacked, backlog)
        stats = self.group.stats()
        assert stats.in_flight + stats.waiting + stats.doomed == outstanding
        assert stats.doomed == len(self.model.doomed())
        self.check_reason(stats.blocked)

    def check_bytes(self, consumer: str) -> None:
        """The bytes that count are those in flight, and the last record at most is too much."""
        weighs = self.group.weighs
        stats, model = self.group.stats(), self.model
        assert stats.in_flight_bytes == (model.flying() if weighs else None)
        (holding,) = (held for held in self.group.holdings() if held.consumer == consumer)
        assert holding.bytes == (model.flying(consumer) if weighs else None)
        if self.limits.max_unacked_bytes:
            assert model.flying() < self.limits.max_unacked_bytes + 40
        if self.limits.max_unacked_bytes_per_consumer:
            most = self.limits.max_unacked_bytes_per_consumer
            assert model.flying(consumer) < most + 40

    def check_reason(self, blocked: str) -> None:
        model = self.model
        if model.paused or not model.consumers:
            assert blocked == ("paused" if model.paused else "no consumers")
            return
        fresh = any(of.tail > of.next for of in model.shards.values())
        if not blocked:
            again = any(
                of.records[lsn].owner is None for of in model.shards.values() for lsn in of.open()
            )
            assert fresh or again
        elif blocked == "no records":
            assert not fresh
        elif blocked == "own windows of all consumers full":
            limits = self.limits
            for name in model.consumers:
                records, size = len(model.held_by(name)), model.flying(name)
                assert (
                    records >= limits.max_unacked_per_consumer > 0
                    or size >= limits.max_unacked_bytes_per_consumer > 0
                )
        else:
            assert blocked.startswith(("window full", "span full"))
            if "max_unacked_bytes" in blocked:
                assert model.flying() >= self.limits.max_unacked_bytes > 0
            shard, lsn = map(int, blocked.rsplit(" ", 1)[1].split("-"))
            assert model.shards[shard].low() == lsn

    def teardown(self) -> None:
        """Drain: with one consumer left that acks, everything is acked or a gap (S1)."""
        if not hasattr(self, "group"):
            return
        model, group = self.model, self.group
        group.resume()
        model.paused = False
        model.miss()
        for name in list(model.consumers):
            group.detach(name, model.now)
            model.detach(name)
        group.attach("last", model.now)
        model.attach("last", None)
        for _ in range(10_000):
            model.tick()
            got = group.fetch("last", 50, model.now)
            model.reserve("last", got)
            for assigned in got:
                self.do_confirm(assigned.lease, assigned.end_lsn)
                first, end = assigned.first_lsn, assigned.end_lsn
                group.ack_range(assigned.shard_id, first, end)
                for lsn in range(first, end):
                    model.ack(assigned.shard_id, lsn)
            doomed = group.doomed(1_000)
            for dead in doomed:
                group.ack_range(*dead[:3])
                for lsn in range(dead.first_lsn, dead.end_lsn):
                    model.ack(dead.shard_id, lsn)
            if not got and not doomed:
                due = group.next_deadline()
                if due is None:
                    break
                model.now = max(model.now, due)
                group.tick(model.now)
        for shard, of in model.shards.items():
            assert of.low() == max(of.tail, of.next), f"S1: {shard} stops at {of.low()}"
        assert group.lag() == type(group.lag())(0, 0)


TestGroup = GroupMachine.TestCase
TestGroup.settings = settings(
    max_examples=effort.of(200, brief=40), stateful_step_count=60, deadline=None
)
