"""The commands of the page on REST do what it says, with curl itself."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from tests.net.rest.conftest import Running

PAGE = Path(__file__).parents[3] / "docs" / "rest.md"
BLOCKS = re.findall(
    r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
]


async def ran(running: Running, block: str) -> str:
    """Run a block in a shell whose curl fails where the server refuses."""
    url = running.client.base_url
    script = f"curl() {{ command curl -sS --fail-with-body --noproxy '*' \"$@\"; echo; }}\n{block}"
    script = script.replace("localhost:6580", f"{url.host}:{url.port}")
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"set -e -o pipefail\n{script}", stdout=-1, stderr=-2
    )
    output, _ = await process.communicate()
    expected = {0, 28} if "--max-time" in block else {0}
    assert process.returncode in expected, output.decode()
    return output.decode()


async def test_the_commands_work_in_the_order_of_the_page(running: Running) -> None:
    outputs = [await ran(running, block) for block in BLOCKS]
    told = "\n".join(outputs)
    assert '"lastSequence":2' in told
    assert told.count('"item":"book"') >= 4
    assert "event: record" in told
    [once] = [output for block, output in zip(BLOCKS, outputs, strict=True) if "7f3e" in block]
    first, second = once.split()
    assert first == second
    [posted] = [
        record async for record in running.server.node.store.stream("orders").read(key="meter-7")
    ]
    assert (posted.payload, posted.attributes) == (b'{"w": 40}', {"topic": "power/7"})
