"""A machine whose power can be cut: mounts of its own over file systems that forget.

Everything lies in a mount namespace that goes with its last process: however a test ends, no mount,
loop device or image is left behind. Needs root.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import struct
import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
DISK_BYTES = 48 << 20
OUTER_BYTES = 80 << 20


def do_without(missing: str) -> NoReturn:
    """Skip a test for lack of something, or fail where skipping is not allowed."""
    if os.environ.get("HSTREAMLITE_REQUIRE_ROOT"):
        pytest.fail(f"needs {missing}; HSTREAMLITE_REQUIRE_ROOT forbids to skip it")
    pytest.skip(f"needs {missing}")


def need(*programs: str) -> None:
    """Skip a test that needs programs, or fail where skipping is not allowed."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        do_without(", ".join(missing))


class Machine:
    """A disk with an ext4 at `disk`, as processes of the machine see it.

    A power cut loses what ext4 had not written: cached pages, and all metadata that is not in its
    journal. What it had written lies in the device; with a write cache that goes too, except for
    what was flushed. That is an ext4 in a file of another one, which is cut instead.
    """

    def __init__(self, directory: Path, *, write_cache: bool) -> None:
        need("unshare", "nsenter", "losetup", "mount", "mkfs.ext4")
        tried = subprocess.run(
            ["unshare", "--mount", "losetup", "--find"], capture_output=True, text=True
        )
        if tried.returncode != 0:
            do_without(f"root and loop devices ({tried.stderr.strip()})")
        self._shell = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        directory.mkdir()
        self._run("mount", "-t", "tmpfs", "tmpfs", directory)
        self.enter = ("nsenter", f"--mount=/proc/{self._shell.pid}/ns/mnt")
        self.disk, outer = directory / "disk", directory / "outer"
        self._boot_id = directory / "boot_id"
        self.seen(self.disk).mkdir()
        self.seen(outer).mkdir()
        self._images = [(directory / "image", self.disk)]
        if write_cache:
            self._images = [(directory / "image", outer), (outer / "image", self.disk)]
            self._make_file_system(self._images[0][0], OUTER_BYTES)
            self._run("mount", "-o", "loop", *self._images[0])
            self._make_file_system(self._images[1][0], DISK_BYTES)
            self._run("umount", outer)
        else:
            self._make_file_system(self._images[0][0], DISK_BYTES)
        self._set_boot_id()
        self._run("mount", "--bind", self._boot_id, "/proc/sys/kernel/random/boot_id")
        self._run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        self.power_on()

    def seen(self, path: Path) -> Path:
        """Return the name of a file for processes outside the machine."""
        return Path(f"/proc/{self._shell.pid}/root{path}")

    def _run(self, *command: str | Path) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        line = shlex.join(map(str, command))
        self._shell.stdin.write(f"{line} </dev/null 2>&1; echo; echo ended $?\n")
        self._shell.stdin.flush()
        said = ""
        for answer in self._shell.stdout:
            if answer.startswith("ended "):
                assert answer == "ended 0\n", f"{line}: {said}"
                return
            said += answer
        raise AssertionError(f"{line}: the shell is gone")

    def _make_file_system(self, image: Path, size: int) -> None:
        with self.seen(image).open("wb") as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
            os.fsync(file.fileno())
        self._run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0", image)
        with self.seen(image).open("rb+") as file:
            os.fsync(file.fileno())

    def _set_boot_id(self) -> None:
        self.seen(self._boot_id).write_text(f"{uuid.uuid4()}\n")

    def power_on(self) -> None:
        """Boot: the file systems replay their journals, and shared memory is empty."""
        self._set_boot_id()
        self._run("find", "/dev/shm", "-mindepth", "1", "-delete")
        for image, point in self._images:
            self._run("mount", "-o", "loop", image, point)

    def cut(self) -> None:
        """Lose all that is not durable. Every call to the disk fails from here on."""
        device = self._images[0][1]
        descriptor = os.open(self.seen(device), os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def power_off(self) -> None:
        """Take the disk away from a machine without processes."""
        for _, point in reversed(self._images):
            self._run("umount", point)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shell.communicate()
