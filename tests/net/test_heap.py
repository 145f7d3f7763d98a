"""What the process of a server does with the memory of messages, seen by its page faults."""

import os
import platform
import subprocess
import sys

import pytest

from hstreamlite.net import heap

_ROUNDS, _MESSAGES = 20, 8
_PROGRAM = f"""
import resource
from hstreamlite.net.heap import keep_memory

keep_memory({{}})

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def take():
    messages = [bytes([n]) * (1 << 20) for n in range({_MESSAGES})]

take()
before = faults()
for _ in range({_ROUNDS}):
    take()
print(faults() - before)
"""


@pytest.mark.unsanitized("the sanitizers bring a heap of their own")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="has no such options")
def test_what_messages_took_is_taken_again() -> None:
    environment = {name: os.environ[name] for name in os.environ if "MALLOC" not in name.upper()}
    command = [sys.executable, "-c", _PROGRAM]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    pages = _ROUNDS * _MESSAGES * (1 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert int(shown.stdout) < pages / 10


def test_who_runs_it_may_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr("hstreamlite.net.heap.ctypes.CDLL", refuse)
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        heap.keep_memory({name: "1"})
    heap.keep_memory({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"})
    with pytest.raises(AssertionError, match="asked"):
        heap.keep_memory({"GLIBC_TUNABLES": "glibc.rtld.nns=4"})


def test_other_c_libraries_have_their_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstreamlite.net.heap.ctypes.CDLL", lambda _: object())
    heap.keep_memory({})
