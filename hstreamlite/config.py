"""Settings of a store, and every limit it enforces, on one page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

Durability = Literal["sync", "os", "memory"]
Compression = Literal["none", "gzip", "zstd"]

PATH_BYTES_MAX = 1023
"""Absolute path of a store; the native core keeps it in a buffer."""
NAME_MAX = 255
"""Characters of a stream or subscription name (HStreamDB's rule)."""
NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_-]*"
SHARDS_MAX = 256
"""Shards of one stream."""
BATCH_RECORDS_MAX = 100_000
"""Records of a batch that a remote client encoded: with all their ids it fits in 4 MiB, which is
what such clients take."""
STREAMS_MAX = 1_000_000
SUBSCRIPTIONS_MAX = 100_000
CONSUMERS_MAX = 10_000
"""Consumers attached to one subscription."""
BACKLOG_SECONDS_MAX = 2**32 - 1
"""Retention by age; the wire holds it in 32 bits."""
ACK_TIMEOUT_SECONDS_MAX = 24 * 3600.0
MAX_UNACKED_MAX = 10_000_000
MAX_UNACKED_BYTES_MAX = 1 << 40
RECEIVE_MAX = 1_000_000
"""Records asked for in one `receive`."""
PREFETCH_MAX = 1_000_000
"""Records that a consumer takes ahead."""
JSON_DEPTH_MAX = 64
REASON_MAX = 1_000
"""Characters that are kept of the reason of a release."""
PRODUCER_WINDOW = 5
"""Batches of an idempotent producer whose ids are remembered."""
PRODUCER_NAME_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """How a store uses memory, disk and time. Every size is in bytes, every duration in seconds.

    The defaults suit anything from an edge box to a server; the names say what each one bounds.
    A value outside its range raises ValueError naming field, value and range.
    """

    durability: Durability = "sync"
    """Level of appends that name none: "sync" survives a power cut, "os" the death of the process,
    "memory" neither."""
    segment_bytes_min: int = 1 << 20
    """Size of the first segment file; each next one is twice as large up to the maximum. A tiny
    store takes about twice this on disk. 64 KiB to 1 GiB."""
    segment_bytes_max: int = 256 << 20
    """Largest segment file, and so the step in which retention frees disk. Regrouping makes larger
    ones where the store holds four times as much: up to four times this, and 2 GiB. Not below the
    minimum; up to 2 GiB."""
    stage_bytes: int = 16 << 20
    """Memory for records on their way to disk and for the tail read back from it; a burst of half
    of it is taken in before anything is written. At least four chunks. Too small: appends wait for
    the disk more often."""
    chunk_bytes: int = 2 << 20
    """One piece of that memory; at least twice `batch_bytes_max` keeps copies small."""
    frame_bytes: int = 1 << 20
    """A group of staged records is closed at this size. 16 KiB to 16 MiB."""
    eager_bytes: int = 256 << 10
    """Staged bytes for which writers that are awake go on although nobody waits; at most half of
    `frame_bytes`."""
    linger: float = 0.05
    """Longest time a record of level "os" or "memory" stays unwritten. 0 to 10."""
    idle_mark: float = 1.0
    """Idle time after which a marker proves that the last group was complete. 0.01 to 3600."""
    prewrite_bytes: int = 1 << 20
    """Zeros written ahead of small groups, which halves the cost of their syncs; 0 = off, for
    copy-on-write file systems. Up to 32 MiB."""
    checkpoint_bytes: int = 16 << 20
    """Distance of index checkpoints, and so the most that opening after a crash has to scan.
    At least 64 KiB."""
    os_stage_bytes: int = 8 << 20
    """Size of the mapped file that carries level "os"; created when that level is first used.
    64 KiB to 256 MiB. Too small: such appends run at the pace of the disk."""
    tail_bytes: int = 1 << 20
    """Newest frames that followers in other processes find in memory, in a mapped file of the
    store; made at the first open. 4 KiB, which the smallest frame takes, to 64 MiB. Too small,
    or 0 for none: they read these frames from the disk, at the writer's cost."""
    index_cache_bytes: int = 16 << 20
    """Memory for parts of the indexes of sealed segments, which are read when they are needed; a
    quarter of it for checksums of parts of large batches, so that who reads a few records again out
    of one need not read all of it. 256 KiB to 16 GiB."""
    batch_bytes_max: int = 1 << 20
    """Largest record, and largest batch of a remote client. 1 KiB to 16 MiB."""
    transaction_bytes_max: int = 32 << 20
    """Largest `append_many` or transaction; it is one frame on disk. Up to 32 MiB."""
    direct_io: bool = True
    """Write past the page cache where the file system allows it."""
    progress_interval: float = 0.1
    """Acks are on disk at the latest after this time (or after `progress_acks` of them). Records
    acked later than that may be delivered again after a crash. 0.001 to 60."""
    progress_acks: int = 1000
    """Acks that are persisted at once, without waiting for the interval. 1 to 1,000,000."""
    retention_interval: float = 10.0
    """How often expired records are looked for. 0.01 to 86400."""
    window_span: int = 1_000_000
    """How far deliveries may run ahead of the oldest unacked record of a subscription, in records.
    1,000 to 100,000,000. Reached: the subscription stalls and `stats()` names the record."""
    stall_warning: float = 30.0
    """After so many seconds in which a subscription has consumers and records for them, and none is
    delivered or acked, a warning is logged that names who holds what; again every ten times as
    long. 0 = never. Up to 86400. Too low: work on long records looks like a stall."""
    regroup: bool = True
    """Write sealed segments anew in the background, sorted by log, so that old records of one
    stream are read in one piece; and those of which little is left, to free the rest."""
    regroup_after: float = 60.0
    """How long a segment is left alone before that, since it was sealed or retention last took
    something from it. 0 to 1e9."""
    regroup_bytes: int = 32 << 20
    """Memory for that. Less: the old segments are read more often. 64 KiB to 1 GiB."""
    clock_jump_max: float = 86_400.0
    """A forward step of the wall clock beyond this pauses expiry until it is confirmed by that much
    running time. Seconds."""

    def __post_init__(self) -> None:
        _choice("durability", self.durability, get_args(Durability))
        self._size("segment_bytes_min", 64 << 10, 1 << 30)
        self._size("segment_bytes_max", self.segment_bytes_min, 2 << 30, "segment_bytes_min")
        self._size("frame_bytes", 16 << 10, 16 << 20)
        self._size("eager_bytes", 4 << 10, self.frame_bytes // 2, "half of frame_bytes")
        self._size("batch_bytes_max", 1 << 10, 16 << 20)
        self._size("transaction_bytes_max", self.batch_bytes_max, 32 << 20, "batch_bytes_max")
        self._size("chunk_bytes", 64 << 10, 64 << 20)
        self._size("stage_bytes", 4 * self.chunk_bytes, 1 << 30, "four times chunk_bytes")
        self._size("prewrite_bytes", 0, 32 << 20)
        self._size("checkpoint_bytes", 64 << 10, 1 << 30)
        self._size("os_stage_bytes", 64 << 10, 256 << 20)
        self._size("tail_bytes", 0, 64 << 20)
        if 0 < self.tail_bytes < 4 << 10:
            raise ValueError(
                f"tail_bytes must be 0, or from {4 << 10} to {64 << 20}, not {self.tail_bytes}"
            )
        self._size("index_cache_bytes", 256 << 10, 16 << 30)
        self._size("progress_acks", 1, 1_000_000)
        self._size("regroup_bytes", 64 << 10, 1 << 30)
        self._size("window_span", 1000, 100_000_000)
        for name, least, most in (
            ("linger", 0.0, 10.0),
            ("idle_mark", 0.01, 3600.0),
            ("progress_interval", 0.001, 60.0),
            ("retention_interval", 0.01, 86_400.0),
            ("regroup_after", 0.0, 1e9),
            ("stall_warning", 0.0, 86_400.0),
            ("clock_jump_max", 1.0, 1e9),
        ):
            check_seconds(name, getattr(self, name), least, most)
        for name in ("direct_io", "regroup"):
            check_bool(name, getattr(self, name))

    def _size(self, name: str, low: int, high: int, bound: str = "") -> None:
        """Check a size; bound is the setting that limits it."""
        try:
            check_int(name, getattr(self, name), low, high)
        except ValueError as error:
            raise ValueError(f"{error} ({bound} is a limit)" if bound else str(error)) from None


def check_bool(name: str, value: object) -> bool:
    """Return value if it is True or False; TypeError naming it if not."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return value


def check_int(name: str, value: object, low: int, high: int) -> int:
    """Return value if it is an int in [low, high]; TypeError or ValueError naming it if not."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    return value


def check_window(name: str, value: object, high: int) -> int:
    """Return the size of a window, 0 for None; TypeError or ValueError naming it if it is none."""
    return 0 if value is None else check_int(name, value, 1, high)


def check_receive(max_records: object) -> int:
    return check_int("max_records", max_records, 1, RECEIVE_MAX)


def check_seconds(name: str, value: object, low: float, high: float) -> float:
    """Return value as float seconds if it lies in [low, high] (NaN does not)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g} seconds, not {value}")
    return float(value)


def check_name(kind: str, name: object) -> str:
    """Return a valid name; TypeError or ValueError saying what is wrong with it."""
    if not isinstance(name, str):
        raise TypeError(f"{kind} name must be a str, not {type(name).__name__}")
    if not 1 <= len(name) <= NAME_MAX:
        raise ValueError(f"{kind} name must have 1 to {NAME_MAX} characters, not {len(name)}")
    if not name[0].isalpha() or not all(c.isalnum() or c in "-_" for c in name):
        raise ValueError(
            f"{kind} name must be a letter followed by letters, digits, '-' or '_', not {name!r}"
        )
    return name


def check_duration(name: str, value: object, most: float, *, least: float = 0.0) -> float:
    """Return seconds from a number or a timedelta in [least, most]."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g} seconds, not {value}")
    return float(value)


def check_key(key: object) -> str:
    """Return a key that can be hashed; TypeError or ValueError saying what is wrong with it."""
    if not isinstance(key, str):
        raise TypeError(f"key must be a str or None, not {type(key).__name__}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"key must be text that UTF-8 can hold, and {key!a} has a surrogate"
        ) from None
    return key


def check_reason(reason: object) -> str:
    """Return the beginning of a reason as text that can be stored; TypeError if it is no text."""
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str or None, not {type(reason).__name__}")
    return reason[:REASON_MAX].encode(errors="replace").decode()


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def check_durability(value: object) -> int:
    """Return the level as a number that grows with the guarantee."""
    try:
        return LEVELS[value]  # type: ignore[index]
    except (KeyError, TypeError):
        raise ValueError(
            f"durability must be one of {', '.join(get_args(Durability))}, not {value!r}"
        ) from None


def check_compression(value: object) -> int:
    """Return HStreamDB's number of the codec."""
    try:
        return CODECS[value]  # type: ignore[index]
    except (KeyError, TypeError):
        raise ValueError(
            f"compression must be one of {', '.join(get_args(Compression))}, not {value!r}"
        ) from None


LEVELS: dict[str, int] = {"memory": 0, "os": 1, "sync": 2}
CODECS: dict[str, int] = {"none": 0, "gzip": 1, "zstd": 2}
CODEC_NAMES: tuple[Compression, ...] = ("none", "gzip", "zstd")
