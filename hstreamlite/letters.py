"""Dead letters: what a record becomes when it moves to a dead-letter stream, and back.

A dead letter is the record with its payload, key and attributes, and with further attributes that
tell where it died. Their names begin with `hstreamlite-dead-`:

=================================  ==============================================================
`hstreamlite-dead-stream`          name of the stream it was in
`hstreamlite-dead-id`              its id there
`hstreamlite-dead-time`            when it was appended there, ISO 8601
`hstreamlite-dead-subscription`    the subscription that could not deal with it
`hstreamlite-dead-attempts`        how often that had it delivered
`hstreamlite-dead-reason`          why it came back last: "timeout", "released", "consumer left",
                                   "consumer gone", "restart", or what was given to
                                   `release(reason=)`
`hstreamlite-dead-before`          JSON of these attributes, where it was a dead letter before
=================================  ==============================================================

A record that was redriven is without them again, and has `hstreamlite-redriven-from`, its first id,
and `hstreamlite-redriven-for`, the subscription that asked for it.
"""

from __future__ import annotations

import json
from typing import Final

from hstreamlite.records import Record

DEAD: Final = "hstreamlite-dead-"
STREAM: Final = DEAD + "stream"
ID: Final = DEAD + "id"
TIME: Final = DEAD + "time"
SUBSCRIPTION: Final = DEAD + "subscription"
ATTEMPTS: Final = DEAD + "attempts"
REASON: Final = DEAD + "reason"
BEFORE: Final = DEAD + "before"
REDRIVEN_FROM: Final = "hstreamlite-redriven-from"
REDRIVEN_FOR: Final = "hstreamlite-redriven-for"


def dead_letter(
    record: Record, *, stream: str, subscription: str, attempts: int, reason: str
) -> Record:
    """Return the dead letter of a stored record."""
    assert record.append_time is not None
    attributes = record.attributes
    before = {name: text for name, text in attributes.items() if name.startswith(DEAD)}
    for name in before:
        del attributes[name]
    attributes |= {
        STREAM: stream,
        ID: str(record.id),
        TIME: record.append_time.isoformat(timespec="milliseconds"),
        SUBSCRIPTION: subscription,
        ATTEMPTS: str(attempts),
        REASON: reason,
    }
    if before:
        attributes[BEFORE] = json.dumps(before)
    return Record(record.payload, key=record.key, attributes=attributes)


def died_in(record: Record, subscription: str) -> bool:
    """Tell whether a record is a dead letter of a subscription."""
    return record.attributes.get(SUBSCRIPTION) == subscription


def redriven(letter: Record) -> Record:
    """Return the record that a dead letter was, to be appended where it came from."""
    attributes = letter.attributes
    dead = {name: text for name, text in attributes.items() if name.startswith(DEAD)}
    for name in dead:
        del attributes[name]
    attributes |= _before(dead.get(BEFORE, "{}"))
    attributes.setdefault(REDRIVEN_FROM, dead.get(ID, ""))
    attributes[REDRIVEN_FOR] = dead.get(SUBSCRIPTION, "")
    return Record(letter.payload, key=letter.key, attributes=attributes)


def _before(text: str) -> dict[str, str]:
    """Read attributes back; anybody may append to a dead-letter stream, so they may be forged."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    attributes = {name: text for name, text in found.items() if isinstance(text, str)}
    try:
        Record(b"", attributes=attributes)
    except ValueError:
        return {}  # no record ever had them
    return attributes
