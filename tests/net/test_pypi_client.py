"""The package hstreamdb from PyPI, unmodified, believes in this server."""

import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hstreamlite.net.server import Server

pytestmark = [
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
    pytest.mark.skipif(find_spec("hstreamdb") is None, reason="./run test installs hstreamdb"),
]
CLIENT = Path(__file__).parent / "pypi_client.py"


@pytest.mark.asyncio
async def test_everything_it_offers_works(server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CLIENT), server.address, stdout=-1, stderr=-1
    )
    out, errors = await process.communicate()
    did = "".join(
        f"did {part}\n" for part in ("streams", "appends", "producers", "readers", "subscriptions")
    )
    assert (process.returncode, out.decode()) == (0, did), errors.decode()
