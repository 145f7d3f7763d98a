"""Limits of HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from hstreamlite.config import check_int, check_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RestConfig:
    """How much, and how long, a request over HTTP may take. Sizes in bytes, times in seconds.

    A value outside its range raises ValueError.
    """

    body_bytes_max: int = 8 << 20
    """Largest body that is taken in one piece; one that comes as lines may be as long as it likes,
    since only so much of it is held. 64 KiB to 1 GiB."""
    body_timeout: float = 30.0
    """For a body. Above 0, up to 3600."""
    lines_timeout: float = 300.0
    """For the next piece of a body that comes as lines. Above 0, up to 3600."""
    call_timeout: float = 60.0
    """For a call of the protocol with one answer; it may have happened then. Above 0, to 3600."""
    heartbeat: float = 15.0
    """A stream of events that is silent gets a comment so often, which keeps proxies from cutting
    it. Above 0, to 3600."""
    wait_max: float = 60.0
    """Longest wait of a fetch. Above 0, to 3600."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may use this from a browser, "*" for all. None: a browser lets no
    page of another origin do so."""
    host_names: tuple[str, ...] = ()
    """Names under which clients reach a server that listens on its own machine only, as behind a
    proxy, "*" for any. A browser is kept from using others, which a page may point here."""

    def __post_init__(self) -> None:
        check_int("body_bytes_max", self.body_bytes_max, 64 << 10, 1 << 30)
        for name in (
            "body_timeout",
            "lines_timeout",
            "call_timeout",
            "heartbeat",
            "wait_max",
        ):
            check_seconds(name, getattr(self, name), 0.001, 3600)
        for name in ("cors_origins", "host_names"):
            texts = getattr(self, name)
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{name} must be a tuple of texts")
