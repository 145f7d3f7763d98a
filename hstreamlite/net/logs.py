"""Logs of a server process: one line an event, as JSON or for people. The library only logs."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from hstreamlite.net.asked import ASKED
from hstreamlite.net.node import CALL

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure(level: LogLevel, form: LogFormat) -> None:
    """Send what is logged to stderr; "auto" is for people where that is a terminal, else JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _call,
    ]
    people = form == "console" or (form == "auto" and sys.stderr.isatty())
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _call(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Say which request is being served; of its headers only its id: others hold tokens."""
    asked = ASKED.get(None)
    if asked is not None:
        event["request_id"] = asked.id
    call = CALL.get(None)
    if call is not None:
        event["method"] = call.method
        event["listener"] = call.listener.group
    return event
