"""Stories about one subscription, told in lines of text and played in virtual time.

A line is a sentence: something is done, or something must be so. What a consumer fetches must be
told by the `sees` lines that follow, all of it, before it does anything else. Records are named
key/payload, `-/payload` without a key; their payloads differ. `#` begins a comment.

```
given ordered, ack_timeout 30, max_attempts 3, backoff 5, max_unacked 100, retention 60
append k1/a k1/b -/c
A attaches                      A attaches with a lease of 10 s
A fetches 3
A sees k1/a k1/b -/c            A sees k1/a attempt 2           A sees nothing
A acks k1/a k1/b                A acks k1/a: void               A acks k1/a: duplicate
A commits k1/a                  A commits k1/a: LeaseLost
A releases k1/a                 A releases k1/a after 5 s
A extends k1/a by 60 s          A renews                        A leaves
A is closed                     A hears of a seek               A hears of a gap of 3
after 30 s                      restart                         power cut
seek earliest                   seek latest                     seek k1/b
trim before k1/b                pause                           resume
lag 2                           blocked keys blocked            dead k1/a attempts 3 reason timeout
```

`max_attempts` comes with a dead-letter stream. A line that does not hold, or makes no sense, raises
`ScenarioFailed` with its file and number.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Any

import hstreamlite as hs
from hstreamlite.consumer import Consumer, ConsumerOptions
from hstreamlite.testing.virtual import VirtualClock

_SPEAKER = re.compile(r"([A-Z]\w*) (.+)")
_RECORDS = r"(\S+/\S+(?: \S+/\S+)*)"
_SECONDS = r"(\d+(?:\.\d+)?)"
_NUMBERS = ("ack_timeout", "max_attempts", "max_unacked", "backoff", "retention")


class ScenarioFailed(AssertionError):
    """A line of a scenario that does not hold."""


class Scenario:
    """A stream, a subscription and its consumers, as lines make them."""

    def __init__(self) -> None:
        self._clock = VirtualClock()
        self._store: hs.Store | None = None
        self._consumers: dict[str, Consumer] = {}
        self._got: dict[str, deque[hs.Delivery]] = {}
        self._held: dict[str, dict[str, hs.Delivery]] = {}
        self._ids: dict[str, hs.RecordId] = {}

    def play(self, name: str, text: str) -> int:
        """Play the lines of a file; return how many there were."""
        played = 0
        for number, written in enumerate(text.splitlines(), 1):
            line = written.partition("#")[0].strip()
            if not line:
                continue
            try:
                self._line(line)
            except Exception as error:
                said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise ScenarioFailed(f"{name}:{number}: {line}\n    {said}") from error
            played += 1
        return played

    def _line(self, line: str) -> None:
        spoken = _SPEAKER.fullmatch(line)
        if not spoken:
            self._untold()
            return _said(line, self, _EVENTS)
        name, words = spoken.groups()
        if not words.startswith("sees"):
            self._untold()
        return _said(words, self, _ACTIONS, name)

    def _untold(self) -> None:
        """Complain of what a consumer got and no line told."""
        for name, got in self._got.items():
            assert not got, f"{name} also got {' '.join(map(_told, got))}"

    @property
    def store(self) -> hs.Store:
        assert self._store is not None, "a scenario begins with `given`"
        return self._store

    @property
    def subscription(self) -> hs.Subscription:
        return self.store.subscription("s")

    def consumer(self, name: str) -> Consumer:
        assert name in self._consumers, f"{name} has not attached"
        return self._consumers[name]

    def deliveries(self, name: str, records: str) -> list[hs.Delivery]:
        held = self._held[name]
        missing = [record for record in records.split() if record not in held]
        assert not missing, f"{name} never got {' '.join(missing)}"
        return [held[record] for record in records.split()]

    # What happens

    def given(self, settings: str) -> None:
        mode, *rest = [setting.strip() for setting in settings.split(",")]
        options: dict[str, Any] = {}
        for setting in rest:
            name, _, value = setting.partition(" ")
            assert name in _NUMBERS, f"there is no setting {name!r}"
            options[name] = float(value) if name in ("ack_timeout", "backoff") else int(value)
        self._store = self._clock.open()
        self._store.create_stream("a", backlog=options.pop("retention", 0))
        if "max_attempts" in options:
            self._store.create_stream("dead")
            options["dead_letter"] = "dead"
        if "backoff" in options:
            wait = options["backoff"]
            options["backoff"] = hs.Backoff(first=wait, most=wait)
        self._store.create_subscription("s", stream="a", mode=mode, **options)

    def append(self, records: str) -> None:
        for name in records.split():
            key, _, payload = name.partition("/")
            record = hs.Record(payload.encode(), key="" if key == "-" else key)
            self._ids[name] = self.store.stream("a").append(record)

    def restart(self, power: str) -> None:
        """End the process, or the power, and open the store again, without consumers."""
        self._consumers.clear()
        self._held.clear()
        env = self._clock.env
        self._clock = VirtualClock()
        self._clock.env = env.power_cut() if power else env.process_crash()
        self._store = self._clock.open()

    def after(self, seconds: str) -> None:
        self._clock.advance(float(seconds))

    def seek(self, place: str) -> None:
        named = {"earliest": hs.EARLIEST, "latest": hs.LATEST}
        self.subscription.seek(named.get(place) or self._ids[place])

    def trim(self, record: str) -> None:
        self.store.stream("a").trim(before=self._ids[record])

    def pause(self) -> None:
        self.subscription.pause()

    def resume(self) -> None:
        self.subscription.resume()

    # What consumers do

    def attach(self, name: str, lease: str | None) -> None:
        lease_ns = None if lease is None else int(float(lease) * 1e9)
        options = ConsumerOptions(name, 100, lease_ns=lease_ns)
        self._consumers[name] = Consumer(self.subscription._feed(), options)
        self._held[name] = {}

    def fetch(self, name: str, count: str) -> None:
        batch = self.consumer(name).receive(int(count), timeout=0)
        self._got[name] = deque(batch)
        self._held[name] |= {_name(delivery): delivery for delivery in batch}

    def see(self, name: str, records: str, attempt: str | None) -> None:
        got = self._got[name]
        if records == "nothing":
            assert not got, f"{name} got {' '.join(map(_told, got))}"
            return
        for record in records.split():
            assert got, f"{name} got nothing more, not {record}"
            told = f"{record} attempt {attempt or 1}"
            assert _told(got[0]) == told, f"{name} got {_told(got[0])}, not {told}"
            got.popleft()

    def ack(self, name: str, records: str, as_what: str | None) -> None:
        result = self.consumer(name).ack(self.deliveries(name, records))
        counts = {"new": result.new, "duplicate": result.duplicate, "void": result.void}
        wanted = len(records.split())
        assert counts[as_what or "new"] == wanted, f"that was {counts}"

    def commit(self, name: str, records: str, failure: str | None) -> None:
        deliveries = self.deliveries(name, records)
        found = None
        try:
            with self.store.transaction() as transaction:
                transaction.ack(deliveries)
        except hs.HStreamError as error:
            found = type(error).__name__
        assert found == failure, f"it failed with {found}" if found else "it did not fail"

    def release(self, name: str, records: str, seconds: str | None) -> None:
        deliveries = self.deliveries(name, records)
        after = None if seconds is None else float(seconds)
        count = self.consumer(name).release(deliveries, after=after)
        assert count == len(deliveries), f"{name} held {count} of them"

    def extend(self, name: str, records: str, seconds: str) -> None:
        deliveries = self.deliveries(name, records)
        count = self.consumer(name).extend(deliveries, by=float(seconds))
        assert count == len(deliveries), f"{name} held {count} of them"

    def renew(self, name: str) -> None:
        self.subscription._feed().roster.renew(name, self.consumer(name)._gate)

    def leave(self, name: str) -> None:
        self.consumer(name).close()

    def is_closed(self, name: str) -> None:
        try:
            self.consumer(name).receive(1, timeout=0)
        except hs.ConsumerClosed:
            return
        raise AssertionError(f"{name} is attached")

    def hear(self, name: str, of: str) -> None:
        events = [
            f"a gap of {event.records}" if isinstance(event, hs.Gap) else "a seek"
            for event in self.consumer(name).events()
        ]
        assert events == [of], f"{name} heard of {', '.join(events) or 'nothing'}"

    # What must be so

    def lag(self, records: str) -> None:
        found = self.subscription.lag().records
        assert found == int(records), f"{found} records are behind"

    def blocked(self, why: str) -> None:
        found = self.subscription._feed().stats().blocked
        assert found.partition(":")[0] == why, f"blocked is {found!r}"

    def dead(self, name: str, attempts: str, reason: str) -> None:
        letters = {_name(record): record.attributes for record in self.store.stream("dead").read()}
        assert name in letters, f"dead are {' '.join(letters) or 'none'}"
        found = letters[name]
        told = found["hstreamlite-dead-attempts"], found["hstreamlite-dead-reason"]
        assert told == (attempts, reason), f"it died after {told[0]} attempts of {told[1]!r}"

    def close(self) -> None:
        self._untold()
        self.store.close()


def _name(record: hs.Record) -> str:
    assert isinstance(record.payload, bytes)
    return f"{record.key or '-'}/{record.payload.decode()}"


def _told(delivery: hs.Delivery) -> str:
    return f"{_name(delivery)} attempt {delivery.attempt}"


Sentence = tuple[re.Pattern[str], Callable[..., None]]


def _sentences(table: dict[str, Callable[..., None]]) -> list[Sentence]:
    return [
        (re.compile(text.replace("RECORDS", _RECORDS).replace("SECONDS", _SECONDS)), do)
        for text, do in table.items()
    ]


def _said(words: str, scenario: Scenario, table: list[Sentence], *speaker: str) -> None:
    for pattern, do in table:
        if found := pattern.fullmatch(words):
            return do(scenario, *speaker, *found.groups())
    raise ValueError("no such sentence")


_EVENTS = _sentences(
    {
        r"given (.+)": Scenario.given,
        r"append RECORDS": Scenario.append,
        r"restart()": Scenario.restart,
        r"(power) cut": Scenario.restart,
        r"after SECONDS s": Scenario.after,
        r"seek (earliest|latest|\S+/\S+)": Scenario.seek,
        r"trim before (\S+/\S+)": Scenario.trim,
        r"pause": Scenario.pause,
        r"resume": Scenario.resume,
        r"lag (\d+)": Scenario.lag,
        r"blocked (.+)": Scenario.blocked,
        r"dead (\S+/\S+) attempts (\d+) reason (.+)": Scenario.dead,
    }
)
_ACTIONS = _sentences(
    {
        r"attaches(?: with a lease of SECONDS s)?": Scenario.attach,
        r"fetches (\d+)": Scenario.fetch,
        r"sees (nothing)()": Scenario.see,
        r"sees RECORDS(?: attempt (\d+))?": Scenario.see,
        r"acks RECORDS(?:: (\w+))?": Scenario.ack,
        r"commits RECORDS(?:: (\w+))?": Scenario.commit,
        r"releases RECORDS(?: after SECONDS s)?": Scenario.release,
        r"extends RECORDS by SECONDS s": Scenario.extend,
        r"renews": Scenario.renew,
        r"leaves": Scenario.leave,
        r"is closed": Scenario.is_closed,
        r"hears of (.+)": Scenario.hear,
    }
)
