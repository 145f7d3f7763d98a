"""`hstreamlite doctor`: is this machine, and this directory, fit for a store, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

import click
from rich_click import RichCommand

from hstreamlite.cli.access import Access, reaches
from hstreamlite.cli.exits import Exit
from hstreamlite.cli.output import Output

if TYPE_CHECKING:
    from hstreamlite.cli.doctor.judgement import Finding

_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


@click.command(cls=RichCommand)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(),
    metavar="FILE",
    help="Settings of the server, to look at its TLS.",
)
@reaches
def doctor(access: Access, output: Output, /, path: Path | None, config: str | None) -> None:
    """Look whether a machine and a directory are fit for a store, and say what to do.

    Looks at the directory and who may use it; at its disk: kind of file system, direct I/O, how
    fast it syncs, free space; at the clock; at limits of files and memory; and at the native core,
    whose checksums are compared with those of another library. Writes a few pages into a file
    without a name, for half a second. The directory need not exist yet.

    Of a server whose settings are named (--config, or its variables), and of the options --tls-*,
    it looks at certificates, keys and authorities: whether they belong together, and are valid for
    30 days more.

    Exit code 1 if something has to be done before the store can be relied on. For damage inside a
    store see `hstreamlite check`.
    """
    place = Path(path or access.directory()).absolute()
    findings = [*_findings(place), *_certificates(access, config, place)]
    sound = all(finding.state != "fail" for finding in findings)
    if output.as_json:
        output.facts({"sound": sound, "findings": findings})
    else:
        for finding in findings:
            output.text(f"{_MARKS[finding.state]}  {finding.check}: {finding.found}")
            if finding.advice:
                output.text(f"      -> {finding.advice}")
    if not sound:
        click.get_current_context().exit(Exit.REFUSED)


def _findings(path: Path) -> list[Finding]:
    from hstreamlite.cli.doctor import probes
    from hstreamlite.cli.doctor.judgement import Finding

    findings = list(probes.directory(path))
    base = path if path.exists() else path.parent
    if all(finding.state != "fail" for finding in findings):
        findings.append(probes.file_system(base))
        on_disk: list[Finding] = []

        def measure() -> None:
            try:
                on_disk.extend(probes.disk(base))
            except OSError as error:
                said = f"{error.strerror or error}"
                on_disk.append(Finding("disk", "fail", said, "look at the device and its messages"))

        clock = probes.clock(path, measure)
        findings += [*on_disk, clock]
    findings += [*probes.limits(), probes.core()]
    return findings


def _certificates(access: Access, config: str | None, store: Path) -> Iterator[Finding]:
    from hstreamlite.cli.doctor import certificates

    now = time()
    yield from certificates.of_server(config, str(store), now)
    yield from certificates.of_client(access, now)
