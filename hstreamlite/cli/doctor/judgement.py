"""What measured facts mean for a store, and what to do about them. Nothing here looks itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["ok", "warn", "fail"]

MIB: Final = 1 << 20
SYNCS_SLOW: Final = 100
SYNCS_INCREDIBLE: Final = 200_000
FREE_LEAST: Final = 64 * MIB
FREE_ENOUGH: Final = 1024 * MIB
INODES_ENOUGH: Final = 1000
FILES_ENOUGH: Final = 4096
MEMORY_ENOUGH: Final = 256 * MIB
SEGMENT: Final = 256 * MIB
CLOCK_OFF_SECONDS: Final = 60
DAY: Final = 86_400
CERTIFICATE_SOON: Final = 30 * DAY
NETWORKED: Final = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"]
)
COPYING: Final = frozenset(["btrfs", "zfs", "bcachefs"])
VOLATILE: Final = frozenset(["tmpfs", "ramfs"])


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``advice`` says what to do; empty where nothing has to be."""

    check: str
    state: State
    found: str
    advice: str = ""


def file_system(kind: str, mount: str) -> Finding:
    """Judge the kind of file system that holds the directory."""
    found = f"{kind} at {mount}"
    if kind in VOLATILE:
        return Finding(
            "file system", "warn", found,
            "it is memory: nothing survives a restart of the machine; use a directory on a disk",
        )  # fmt: skip
    if kind in NETWORKED:
        return Finding(
            "file system", "warn", found,
            "locks and syncs are those of a network: use a local disk, or be sure that one machine "
            "only opens the store and that the server of the files syncs",
        )  # fmt: skip
    if kind == "overlay":
        return Finding(
            "file system", "warn", found,
            "it is the layer of a container, which goes with it: put the store on a volume",
        )  # fmt: skip
    if kind in COPYING:
        return Finding(
            "file system", "warn", found,
            "it copies on write, so writing ahead costs and gains nothing: open the store with "
            "StoreConfig(prewrite_bytes=0)",
        )  # fmt: skip
    return Finding("file system", "ok", found)


def direct_io(*, works: bool, why: str = "") -> Finding:
    """Judge whether files can be written past the page cache."""
    if works:
        return Finding("direct I/O", "ok", "O_DIRECT works")
    return Finding(
        "direct I/O", "warn", f"O_DIRECT does not work: {why}",
        "nothing has to be done: the store goes through the page cache here, and is slower",
    )  # fmt: skip


def syncs(rate: float) -> Finding:
    """Judge how often a second a small write can be made durable."""
    found = f"{rate:,.0f} synced writes of 4 KiB a second"
    if rate < SYNCS_SLOW:
        return Finding(
            "fdatasync", "warn", found,
            "each append that waits alone takes that long: append many at once, use producers, or "
            'durability="os" where only the process may die',
        )  # fmt: skip
    if rate > SYNCS_INCREDIBLE:
        return Finding(
            "fdatasync", "warn", found,
            "no disk is as fast: something answers before the data is safe; look for a write cache "
            "without battery, or options such as nobarrier",
        )  # fmt: skip
    return Finding("fdatasync", "ok", found)


def room(free: int, total: int, inodes: int | None) -> Finding:
    """Judge what is left on the device; inodes None = the file system has no such limit."""
    found = f"{free / MIB:,.0f} MiB of {total / MIB:,.0f} MiB are free"
    if inodes is not None:
        found += f", and {inodes:,} files more"
    advice = "free space, or let streams expire: see `hstreamlite stream describe`"
    if free < FREE_LEAST or inodes == 0:
        return Finding("free space", "fail", found, advice)
    if free < FREE_ENOUGH or (inodes is not None and inodes < INODES_ENOUGH):
        return Finding("free space", "warn", found, advice)
    return Finding("free space", "ok", found)


def clock(
    *, ahead_seconds: float | None, step_seconds: float, synchronized: bool | None
) -> Finding:
    """Judge the wall clock.

    ahead_seconds: how far the newest record lies in the future, None without records; step_seconds:
    how much it moved against the monotonic clock while it was looked at.
    """
    if ahead_seconds is not None and ahead_seconds > CLOCK_OFF_SECONDS:
        return Finding(
            "clock", "fail", f"the newest record is {ahead_seconds:,.0f} s in the future",
            "the clock went back, or was wrong when that was written: set it right; until then new "
            "records get the time of that one, and nothing expires",
        )  # fmt: skip
    if abs(step_seconds) > 0.5:
        return Finding(
            "clock", "warn", f"the clock was moved by {step_seconds:+.1f} s meanwhile",
            "let one time service slew it, instead of steps",
        )  # fmt: skip
    if synchronized is False:
        return Finding(
            "clock", "warn", "the kernel takes the clock for not synchronized",
            "run chrony or systemd-timesyncd (on the host of a container)",
        )  # fmt: skip
    known = "synchronized" if synchronized else "goes evenly"
    return Finding("clock", "ok", known)


def open_files(soft: int | None, hard: int | None) -> Finding:
    """Judge how many files and connections a process may have; None = any number."""
    if soft is None or soft >= FILES_ENOUGH:
        return Finding("open files", "ok", "any number" if soft is None else f"{soft:,} a process")
    most = "unlimited" if hard is None else str(hard)
    return Finding(
        "open files", "warn", f"{soft:,} a process",
        f"a store needs some hundreds and a server one for each client: `ulimit -n {most}`, or "
        "LimitNOFILE= of the service",
    )  # fmt: skip


def memory(available: int | None) -> Finding:
    """Judge what a process can have; None = it cannot be told."""
    if available is None:
        return Finding("memory", "ok", "no limit is known")
    found = f"{available / MIB:,.0f} MiB are available"
    if available < MEMORY_ENOUGH:
        return Finding(
            "memory", "warn", found,
            "a store takes about 64 MiB: give more, or lower stage_bytes, chunk_bytes and "
            "index_cache_bytes of StoreConfig",
        )  # fmt: skip
    return Finding("memory", "ok", found)


def file_size(limit: int | None) -> Finding:
    """Judge how large a file may be; None = any size."""
    if limit is None:
        return Finding("file size", "ok", "any size")
    found = f"files may have {limit / MIB:,.0f} MiB"
    if limit < SEGMENT:
        return Finding(
            "file size", "fail", found,
            "segments have up to 256 MiB: `ulimit -f unlimited`, or lower segment_bytes_max",
        )  # fmt: skip
    return Finding("file size", "ok", found)


def certificate(check: str, path: str, left: float) -> Finding:
    """Judge for how many seconds a certificate, or the first of several, is valid yet."""
    if left <= 0:
        return Finding(
            check, "fail", f"{path} has expired",
            "whoever is shown it ends the connection: have it renewed, and restart what uses it",
        )  # fmt: skip
    days = int(left // DAY)
    found = f"{path} is valid for {days:,} days"
    if left < CERTIFICATE_SOON:
        return Finding(
            check, "warn", found,
            "have it renewed before that, and restart what uses it: files are read at the start",
        )  # fmt: skip
    return Finding(check, "ok", found)


def core(wrong: int, tried: int) -> Finding:
    """Judge the checksums of the native core, compared with those of crcmod."""
    if wrong:
        return Finding(
            "native core", "fail", f"{wrong} of {tried} checksums differ from those of crcmod",
            "write nothing with it: install hstreamlite again, and test the memory of the machine",
        )  # fmt: skip
    return Finding("native core", "ok", f"{tried} checksums agree with those of crcmod")
