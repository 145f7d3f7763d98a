"""`hstreamlite doctor`: is this machine, and this directory, fit for a store, and what to do."""

from __future__ import annotations

from pathlib import Path
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
@reaches
def doctor(access: Access, output: Output, /, path: Path | None) -> None:
    """Look whether a machine and a directory are fit for a store, and say what to do.

    Looks at the directory and who may use it; at its disk: kind of file system, direct I/O, how
    fast it syncs, free space; at the clock; at limits of files and memory; and at the native core,
    whose checksums are compared with those of another library. Writes a few pages into a file
    without a name, for half a second. The directory need not exist yet.

    Exit code 1 if something has to be done before the store can be relied on. For damage inside a
    store see `hstreamlite check`.
    """
    findings = _findings(Path(path or access.directory()).absolute())
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
