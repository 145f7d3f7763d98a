"""Redis streams: a consumer group of a server of its own, over a Unix socket."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

_STREAM, _GROUP = "records", "group"
_CONFIG = (
    *("--port", "0", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--daemonize", "no", "--loglevel", "warning"),
)
_TRIES = 200


class RedisQueue:
    """A server, and its stream. It writes to the directory; its socket has a shorter path."""

    def __init__(self, path: Path):
        self._sockets = TemporaryDirectory(prefix="redis-")
        self._socket = str(Path(self._sockets.name, "socket"))
        command = ["redis-server", *_CONFIG, "--dir", str(path), "--unixsocket", self._socket]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        retry = Retry(ConstantBackoff(0.05), _TRIES)
        self._client = redis.Redis(unix_socket_path=self._socket, retry=retry)
        self._client.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)

    def fill(self, payloads: list[bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for payload in payloads:
                pipe.xadd(_STREAM, {b"p": payload})
            pipe.execute()

    def workers(self, count: int) -> list[RedisWorker]:
        return [RedisWorker(self._socket, f"consumer-{number}") for number in range(count)]

    def left(self) -> int:
        (group,) = self._client.xinfo_groups(_STREAM)
        return int(group["pending"]) + int(group["lag"])

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()
        self._sockets.cleanup()


class RedisWorker:
    """A consumer, and its connection. A delivery is (id, fields)."""

    def __init__(self, socket: str, name: str):
        self._client = redis.Redis(unix_socket_path=socket)
        self._name = name

    def take_list(self, limit: int) -> Sequence[Any]:
        found: Any = self._client.xreadgroup(_GROUP, self._name, {_STREAM: ">"}, count=limit)
        return found[0][1] if found else ()

    take_singles = take_list

    def take_one(self) -> Any:
        taken = self.take_list(1)
        return taken[0] if taken else None

    def ack_one(self, delivery: Any) -> object:
        return self._client.xack(_STREAM, _GROUP, delivery[0])

    def payloads(self, deliveries: Sequence[Any]) -> Sequence[bytes]:
        return [fields[b"p"] for _, fields in deliveries]

    def ack_list(self, deliveries: Sequence[Any]) -> object:
        return self._client.xack(_STREAM, _GROUP, *(delivery[0] for delivery in deliveries))


opener = RedisQueue


def versions() -> dict[str, str]:
    """Return the server's version; OSError where there is no server."""
    if shutil.which("redis-server") is None:
        raise FileNotFoundError("no redis-server (Debian and Ubuntu: apt install redis-server)")
    shown = subprocess.run(
        ["redis-server", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return {"redis-server": shown.split("v=")[1].split()[0]}
