"""Whatever call a signal's handler raises in, memory and disk agree afterwards, and nothing sticks.

A profile function raises where CPython runs such handlers: when a function begins, and when one of
C returned.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv

HERE = Path(hs.__file__).parent
CHANGING = [
    "engine.py",
    "feeds.py",
    "log/catalog.py",
    "log/journal.py",
    "position.py",
    "transaction.py",
]


class Struck(BaseException):
    """What the handler raises."""


def struck(at: int, work: Callable[[], Any], modules: list[str]) -> bool:
    """Do the work with an interrupt at the n-th call of these; whether there were so many."""
    left = at
    files = {str(HERE / module) for module in modules}

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event in {"call", "c_return"} and frame.f_code.co_filename in files:
            left -= 1
            if not left:
                sys.setprofile(None)
                raise Struck

    sys.setprofile(profile)
    try:
        work()
    except Struck:
        return True
    finally:
        sys.setprofile(None)
    return not left


CHANGES: dict[str, Callable[[hs.Store], object]] = {
    "create_stream": lambda store: store.create_stream("new"),
    "delete_stream": lambda store: store.delete_stream("spare"),
    "archive_stream": lambda store: store.delete_stream("read", force=True),
    "create_subscription": lambda store: store.create_subscription("late", stream="read"),
    "delete_subscription": lambda store: store.delete_subscription("group"),
    "pause": lambda store: store.subscription("group").pause(),
    "transaction": lambda store: transaction(store),
}


def transaction(store: hs.Store) -> None:
    with store.transaction() as tx:
        tx.create_stream("new")
        tx.append("new", b"in it")
        tx.delete_stream("spare")


def shown(store: hs.Store) -> dict[str, object]:
    streams = {info.name: list(store.stream(info.name).read()) for info in store.streams()}
    return {**streams, "subscriptions": store.subscriptions()}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_interrupted_at_any_call_is_whole_or_absent_in_memory_as_on_disk(
    change: str,
) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        env = SimEnv()
        store = hs.open("/s", env=env)
        store.create_stream("spare").append(b"1")
        store.create_stream("read").append(b"2")
        store.create_subscription("group", stream="read")
        calling = partial(CHANGES[change], store)
        goes_on = struck(at, calling, CHANGING)
        store.create_stream("later").append(b"3")
        with suppress(hs.StreamNotFound, hs.SubscriptionNotFound):  # the first time it happened
            if "delete" in change:
                CHANGES[change](store)
        before = shown(store)
        store.close()
        with hs.open("/s", env=env) as again:
            assert shown(again) == before


def test_a_regrouping_that_was_interrupted_at_any_call_is_begun_anew() -> None:
    config = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=64 << 10, regroup=False)
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        env = SimEnv()
        with hs.open("/s", env=env, config=config) as store:
            streams = [store.create_stream(name) for name in "abcd"]
            for _ in range(8):
                for stream in streams:
                    stream.append_many([b"." * 1000] * 5)
            goes_on = struck(at, store.compact, ["regrouper.py", "log/swap.py"])
            compacted = threading.Thread(target=store.compact, daemon=True)
            compacted.start()
            compacted.join(60)
            assert not compacted.is_alive()
            assert store.stats().log["segments_regrouped"]
