"""What is asked for, checked as far as it can be without the server."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from hstreamlite.config import (
    ACK_TIMEOUT_SECONDS_MAX,
    BACKLOG_SECONDS_MAX,
    MAX_UNACKED_BYTES_MAX,
    MAX_UNACKED_MAX,
    check_duration,
    check_int,
    check_name,
    check_window,
)
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.wire import backoff_to, place_to
from hstreamlite.place import Place, check_place
from hstreamlite.sub.retry import ATTEMPTS_MAX, Backoff


def stream_request(
    name: str, backlog: float | timedelta, max_bytes: int, protect: Iterable[str]
) -> pb.CreateStreamRequest:
    """Return what asks for a stream; nothing else of it can be wrong than what the server knows."""
    if isinstance(protect, str) or not isinstance(protect, Iterable):
        raise TypeError(
            f"protect must be a collection of subscription names, not {type(protect).__name__}"
        )
    return pb.CreateStreamRequest(
        name=check_name("stream", name),
        backlog_s=check_duration("backlog", backlog, BACKLOG_SECONDS_MAX),
        max_bytes=check_int("max_bytes", max_bytes, 0, 1 << 62),
        protect=[check_name("subscription", subscription) for subscription in protect],
    )


def subscription_request(
    name: str,
    *,
    stream: str,
    mode: str,
    ack_timeout: float | timedelta,
    max_unacked: int,
    max_unacked_bytes: int | None,
    max_unacked_per_consumer: int | None,
    max_unacked_bytes_per_consumer: int | None,
    start: Place,
    max_attempts: int,
    dead_letter: str | None,
    backoff: Backoff | None,
) -> pb.CreateSubscriptionRequest:
    """Return what asks for a subscription."""
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, not {type(mode).__name__}")
    if backoff is not None and not isinstance(backoff, Backoff):
        raise TypeError(f"backoff must be a Backoff or None, not {type(backoff).__name__}")
    return pb.CreateSubscriptionRequest(
        name=check_name("subscription", name),
        stream=check_name("stream", stream),
        mode=mode,
        ack_timeout_s=check_duration("ack_timeout", ack_timeout, ACK_TIMEOUT_SECONDS_MAX),
        max_unacked=check_int("max_unacked", max_unacked, 1, MAX_UNACKED_MAX),
        max_unacked_bytes=_window("max_unacked_bytes", max_unacked_bytes, MAX_UNACKED_BYTES_MAX),
        max_unacked_per_consumer=_window(
            "max_unacked_per_consumer", max_unacked_per_consumer, MAX_UNACKED_MAX
        ),
        max_unacked_bytes_per_consumer=_window(
            "max_unacked_bytes_per_consumer", max_unacked_bytes_per_consumer, MAX_UNACKED_BYTES_MAX
        ),
        start=place_to(check_place("start", start)),
        max_attempts=check_int("max_attempts", max_attempts, 0, ATTEMPTS_MAX),
        dead_letter=None if dead_letter is None else check_name("stream", dead_letter),
        backoff=None if backoff is None else backoff_to(backoff),
    )


def _window(name: str, value: int | None, most: int) -> int | None:
    return check_window(name, value, most) or None
