"""What the server counts, and command lines for it."""

from __future__ import annotations

from collections.abc import Callable

from hstreamlite.aio.bell import in_thread
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.admin import Administration
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.errors import Refused, Status
from hstreamlite.net.node import Node
from hstreamlite.net.stats import INTERVAL_MS_MAX, Statistics, is_interval

ANSWER_BYTES_MAX = 3 << 20
"""What clients take is 4 MiB; the rest is for what surrounds the values."""


class Stats(Served):
    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._statistics = Statistics(node.store)
        self._administration = Administration(node, self._statistics)

    async def SendAdminCommand(
        self, request: pb.AdminCommandRequest, context: Context
    ) -> pb.AdminCommandResponse:
        return pb.AdminCommandResponse(result=await self._administration.run(request.command))

    async def PerStreamTimeSeriesStats(
        self, request: pb.PerStreamTimeSeriesStatsRequest, context: Context
    ) -> pb.PerStreamTimeSeriesStatsResponse:
        rates = await in_thread(
            self._statistics.stream_series,
            request.method,
            request.streamName,
            list(request.intervals.intervals),
        )
        if rates is None:
            return pb.PerStreamTimeSeriesStatsResponse()
        return pb.PerStreamTimeSeriesStatsResponse(stats=pb.StatsDoubleVals(vals=rates))

    async def PerStreamTimeSeriesStatsAll(
        self, request: pb.PerStreamTimeSeriesStatsAllRequest, context: Context
    ) -> pb.PerStreamTimeSeriesStatsAllResponse:
        intervals = list(request.intervals.intervals)
        wrong = [interval for interval in intervals if not is_interval(interval)]
        if wrong:
            raise Refused(
                Status.INVALID_ARGUMENT,
                0,
                f"An interval must be 1 to {INTERVAL_MS_MAX} ms, not {wrong[0]}.",
            )
        found = await in_thread(self._statistics.all_stream_series, request.method, intervals)
        response = pb.PerStreamTimeSeriesStatsAllResponse(
            stats={stream: pb.StatsDoubleVals(vals=rates) for stream, rates in found.items()}
        )
        if response.ByteSize() > ANSWER_BYTES_MAX:
            raise Refused(
                Status.RESOURCE_EXHAUSTED,
                0,
                f"The rates of {len(found)} streams are too many for one answer; ask for those of "
                "single streams.",
            )
        return response

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        if not request.stats:
            raise Refused(Status.INVALID_ARGUMENT, 0, "No statistics were asked for.")
        response = pb.GetStatsResponse()
        for asked in {stat.SerializeToString(): stat for stat in request.stats}.values():
            counter = _counter(self._statistics, asked)
            if counter is None:
                response.errors.add(statType=asked, message="InvalidStatsType")
                continue
            value = pb.StatValue(statType=asked, statValues=await in_thread(counter))
            if response.ByteSize() + value.ByteSize() > ANSWER_BYTES_MAX:
                response.errors.add(statType=asked, message="Too many values for one answer")
            else:
                response.statsValues.append(value)
        return response


_STREAMS = {
    pb.StreamStats.AppendInBytes: "append_in_bytes",
    pb.StreamStats.AppendInRecords: "append_in_records",
    pb.StreamStats.AppendTotal: "append_total",
    pb.StreamStats.AppendFailed: "append_failed",
    pb.StreamStats.ReadInBytes: "read_in_bytes",
    pb.StreamStats.ReadInBatches: "read_in_batches",
}
_SUBSCRIPTIONS = {
    pb.SubscriptionStats.SendOutBytes: "send_out_bytes",
    pb.SubscriptionStats.SendOutRecords: "send_out_records",
    pb.SubscriptionStats.SendOutRecordsFailed: "send_out_records_failed",
    pb.SubscriptionStats.ResendRecords: "resend_records",
    pb.SubscriptionStats.ResendRecordsFailed: "resend_records_failed",
    pb.SubscriptionStats.ReceivedAcks: "received_acks",
    pb.SubscriptionStats.RequestMessages: "request_messages",
    pb.SubscriptionStats.ResponseMessages: "response_messages",
    pb.SubscriptionStats.ChecklistSize: "checklist_size",
}
_OF_NOTHING = {
    "connStat": pb.ConnectorStats,
    "queryStat": pb.QueryStats,
    "viewStat": pb.ViewStats,
    "cacheStoreStat": pb.CacheStoreStats,
}
"""Counters of what this server does not have."""


def _counter(statistics: Statistics, asked: pb.StatType) -> Callable[[], dict[str, int]] | None:
    """Return what reads a counter; None if there is no such one."""
    match asked.WhichOneof("stat"):
        case "streamStat" if asked.streamStat in _STREAMS:
            stream = _STREAMS[asked.streamStat]
            return lambda: statistics.stream_counter(stream)
        case "subStat" if asked.subStat in _SUBSCRIPTIONS:
            subscription = _SUBSCRIPTIONS[asked.subStat]
            return lambda: statistics.subscription_counter(subscription)
        case ("connStat" | "queryStat" | "viewStat" | "cacheStoreStat") as kind:
            known = getattr(asked, kind) in _OF_NOTHING[kind].values()
            return dict if known else None
        case _:
            return None
