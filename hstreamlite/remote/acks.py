"""Acks of the consumers of one subscription, some of which go out as one request.

Of what lists of few records cost, most is the request of an ack and its answer. So what consumers
of one process ack at the same time, or while such a request is under way, goes together, by way of
one of them. Who is answered mostly acks the next list at once, so what waited then waits for that,
too. What the server does not do for one of them so, that one asks for by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from hstreamlite.errors import HStreamError
from hstreamlite.net import hstreamlite_pb2 as pb

if TYPE_CHECKING:
    from hstreamlite.remote.attachment import Answer, Attachment

Acked = asyncio.Future[pb.ConsumeReply.Acked]

_TURNS: Final = 3
"""Of the loop: in fewer, who is answered has taken the next list, if it is there, and acked it."""
_PARTS_MAX: Final = 32
_SPANS_MAX: Final = 100
"""Of one ack. With this, requests are far below what any server takes."""


@dataclass(frozen=True, slots=True)
class _Part:
    attachment: Attachment
    spans: pb.Spans
    acked: Acked


class Acks:
    """Those of one subscription, on one connection. Belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[_Part] = []
        self._under_way = 0
        self._woken = False

    def ask(self, attachment: Attachment, spans: pb.Spans, *, alone: bool) -> Acked:
        """Ack for one attachment; what it asks for later is done later.

        alone: what it asked for earlier is to be done earlier.
        """
        part = _Part(attachment, spans, self._loop.create_future())
        if alone or len(spans.shards) > _SPANS_MAX:
            self._ask_alone(part, at_once=False)
            return part.acked
        attachment.begin_away_ack()
        self._waiting.append(part)
        self._wake()
        return part.acked

    def _wake(self, turns: int = 0) -> None:
        if self._waiting and not self._woken and not self._under_way:
            self._woken = True
            self._loop.call_soon(self._let_pass, turns)

    def _let_pass(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._let_pass, turns - 1)
        else:
            self._send()

    def _send(self) -> None:
        self._woken = False
        parts, self._waiting = self._waiting[:_PARTS_MAX], self._waiting[_PARTS_MAX:]
        carrier = next((p.attachment for p in parts if p.attachment.carries_acks), None)
        asked = None
        if carrier is not None and len(parts) > 1:
            asked = carrier.ask_joint_ack([(p.attachment.name, p.spans) for p in parts])
        if asked is None:
            for part in parts:
                self._ask_alone(part, counted=part.attachment.attached)
                part.attachment.end_away_ack()
        else:
            for part in parts:
                if part.attachment is carrier:  # it is on its way, ahead of what follows
                    part.attachment.end_away_ack()
            self._under_way += 1
            asked.add_done_callback(partial(self._hear, parts, carrier))
        self._wake()

    def _hear(self, parts: Sequence[_Part], carrier: Attachment | None, asked: Answer) -> None:
        """Pass on what became of each, and let who got nothing ask again."""
        self._under_way -= 1
        failed = asked.cancelled() or asked.exception() is not None
        results = () if failed else asked.result().joint_acked.parts
        for part, result in zip_longest(parts, results):
            if result is None or not result.HasField("acked"):
                self._ask_alone(part)
            elif not part.acked.done():
                part.acked.set_result(result.acked)
            if part.attachment is not carrier:
                part.attachment.end_away_ack()
        self._wake(_TURNS)

    def _ask_alone(self, part: _Part, *, counted: bool = False, at_once: bool = True) -> None:
        request = pb.ConsumeRequest(ack=part.spans)
        try:
            _, asked = part.attachment.ask(request, at_once=at_once)
        except HStreamError as error:
            _refuse(part, error)
            return
        self._under_way += counted
        asked.add_done_callback(partial(self._hear_alone, part, counted))

    def _hear_alone(self, part: _Part, counted: bool, asked: Answer) -> None:  # noqa: FBT001
        self._under_way -= counted
        error = None if asked.cancelled() else asked.exception()
        if error is not None:
            _refuse(part, error)
        elif not part.acked.done():
            if asked.cancelled():
                part.acked.cancel()
            else:
                part.acked.set_result(asked.result().acked)
        self._wake(_TURNS)


def _refuse(part: _Part, error: BaseException) -> None:
    if not part.acked.done():
        part.acked.set_exception(error)
        part.acked.exception()  # seen: nobody may be waiting
