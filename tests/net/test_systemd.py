"""What a service manager is told, over a socket as it listens on."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hstreamlite.net.systemd import notify
from tests.logs import logged

GUARD = 60


def listening(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(address)
    made.settimeout(GUARD)
    return made


def test_a_server_tells_when_it_serves_and_when_it_stops(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listening(path) as manager:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hstreamlite",
                "server",
                "--store",
                tmp_path / "store",
                "--port",
                "0",
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"NOTIFY_SOCKET": path},
        )
        with process:
            try:
                told = manager.recv(4096).decode().splitlines()
                assert process.stdout is not None
                where = process.stdout.readline().strip().removeprefix("hstreamlite server ready")
                assert told == ["READY=1", f"STATUS=Serving{where}"]
                process.send_signal(signal.SIGTERM)
                assert manager.recv(4096).decode().splitlines()[0] == "STOPPING=1"
                assert process.wait(GUARD) == 0
            finally:
                process.kill()


def test_an_abstract_socket_is_told_and_nobody_is_no_error() -> None:
    name = f"hstreamlite-{os.getpid()}"
    with listening(f"\0{name}") as manager:
        notify("READY=1", "STATUS=x", environment={"NOTIFY_SOCKET": f"@{name}"})
        assert manager.recv(100) == b"READY=1\nSTATUS=x"
    notify("READY=1", environment={})


def test_a_manager_that_is_gone_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notify("READY=1", environment={"NOTIFY_SOCKET": str(tmp_path / "none")})
    [record] = logged(caplog)
    assert "cannot be told of READY=1" in record.getMessage()
