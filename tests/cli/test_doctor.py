"""The doctor: what it says of a machine, and of a directory."""

from __future__ import annotations

import errno
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import hstreamlite as hs
from hstreamlite._native import lib
from hstreamlite.cli.doctor import judgement, probes
from hstreamlite.cli.doctor.judgement import MIB, Finding
from tests.cli.person import Person
from tests.net.access.certificates import Certificates

CHECKS = [
    "directory", "permissions", "file system", "direct I/O", "fdatasync", "free space", "clock",
    "open files", "memory", "file size", "native core",
]  # fmt: skip


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_SYNCS_MOST", 3)


def findings(person: Person, *words: str) -> dict[str, Any]:
    code, printed = person.types("doctor", *words, "--json")
    assert person.said == ""
    report = parsed(printed)
    states = {found["state"] for found in report["findings"]}
    assert report["sound"] == ("fail" not in states) == (code == 0)
    return {found["check"]: found for found in report["findings"]}


def parsed(printed: bytes) -> Any:

    return json.loads(printed)


def test_store_is_looked_at_from_all_sides_and_left_alone(orders: Person) -> None:
    before = sorted(path.name for path in orders.path.rglob("*"))
    found = findings(orders)
    assert list(found) == CHECKS
    assert "a store with 1 streams, 0 records" in found["directory"]["found"]
    assert found["native core"]["state"] == "ok"
    assert sorted(path.name for path in orders.path.rglob("*")) == before
    with hs.open(orders.path):
        assert "in use by process" in findings(orders)["directory"]["found"]


def test_directory_need_not_exist(person: Person, tmp_path: Path) -> None:
    assert "it is made when it is needed" in findings(person)["directory"]["found"]
    assert not person.path.exists()
    assert list(findings(person, str(tmp_path))) == CHECKS
    person.path.mkdir()
    assert "a store can be made in it" in findings(person)["directory"]["found"]
    assert list(person.path.iterdir()) == []


@pytest.mark.parametrize("kind", ["above", "file", "other", "damaged"])
def test_what_cannot_hold_a_store_fails(kind: str, orders: Person, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "above":
        path /= "missing"
    elif kind == "file":
        path.write_text("x")
    elif kind == "other":
        path.mkdir()
        (path / "letter.txt").write_text("x")
    else:
        path = orders.path
        (path / "SUPER").write_bytes(b"\0" * 8192)
    found = findings(orders, str(path))
    assert found["directory"]["state"] == "fail"
    assert found["directory"]["advice"]
    assert found["native core"]["state"] == "ok"


def test_store_of_a_newer_format_needs_a_newer_package(orders: Person) -> None:
    """`check` would refuse it as well."""
    path = orders.path / "SUPER"
    slots = bytearray(path.read_bytes())
    for start in 0, 4096:
        page = slots[start : start + 4096]
        page[12:14] = (2).to_bytes(2, "little")
        page[8:12] = google_crc32c.value(bytes(page[12:])).to_bytes(4, "little")
        slots[start : start + 4096] = page
    path.write_bytes(slots)
    found = findings(orders)["directory"]
    assert "version 2" in found["found"]
    assert "newer hstreamlite" in found["advice"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_directory_of_somebody_else_is_told(orders: Person) -> None:
    os.chown(orders.path, 65534, -1)
    assert "belongs to user 65534" in findings(orders)["permissions"]["found"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_directory_that_cannot_be_written_fails(orders: Person) -> None:
    orders.path.chmod(0o500)
    try:
        found = findings(orders)
    finally:
        orders.path.chmod(0o700)
    assert "may not write to" in found["permissions"]["found"]


def test_people_get_lines_with_advice(orders: Person) -> None:
    code, printed = orders.types("doctor", str(orders.path / "no" / "no"), "--no-json")
    assert code == 1
    first, advice, *_ = printed.decode().splitlines()
    assert first.startswith("FAIL  directory: ")
    assert advice.strip().startswith("-> `mkdir -p")
    assert orders.fails("doctor", "a", "b")[0] == 2


def test_clock_behind_the_newest_record_fails(
    orders: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.json("stream", "append", "orders", given=b"now\n")
    assert findings(orders)["clock"]["state"] != "fail"
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - 3600)
    found = findings(orders)["clock"]
    assert found["state"] == "fail"
    assert "in the future" in found["found"]


def test_wrong_checksums_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def hsl_crc32c(self, crc: int, data: object, size: int) -> int:
            right = int(lib.hsl_crc32c(crc, data, size))
            return right ^ 1 if size > 10_000 else right

    assert probes.core().state == "ok"
    monkeypatch.setattr(probes, "lib", Wrong())
    found = probes.core()
    assert found.state == "fail"
    assert found.found.endswith("differ from those of crcmod")


def test_disk_without_direct_io_is_told_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def refuses(path: object, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", refuses)
    direct, syncs, _ = probes.disk(tmp_path)
    assert (direct.check, direct.state) == ("direct I/O", "warn")
    assert syncs.check == "fdatasync"
    assert list(tmp_path.iterdir()) == []


def test_disk_without_unnamed_files_is_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    assert [found.check for found in probes.disk(tmp_path)][1] == "fdatasync"
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fails_is_told(orders: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fails)
    assert findings(orders)["disk"]["state"] == "fail"


def test_rate_is_that_of_the_tries() -> None:
    now = iter(range(100))
    assert probes.sync_rate(lambda: None, lambda: next(now) / 10) == pytest.approx(10)


MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/root rw
22 21 0:5 / /data rw,noatime shared:1 - xfs /dev/sdb rw
23 22 0:6 / /data/with\\040space rw - nfs4 server:/x rw
24 21 0:7 / /data rw - btrfs /dev/sdc rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/x", ("ext4", "/")),
        ("/data", ("btrfs", "/data")),
        ("/data/store", ("btrfs", "/data")),
        ("/database", ("ext4", "/")),
        ("/data/with space/store", ("nfs4", "/data/with space")),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(path: str, found: tuple[str, str]) -> None:
    assert probes.mount_of(path, MOUNTS) == found
    assert probes.mount_of(path, "") == ("unknown", "/")


@pytest.mark.parametrize(
    ("finding", "state"),
    [
        (judgement.file_system("ext4", "/"), "ok"),
        (judgement.file_system("tmpfs", "/tmp"), "warn"),
        (judgement.file_system("nfs4", "/mnt"), "warn"),
        (judgement.file_system("overlay", "/"), "warn"),
        (judgement.file_system("zfs", "/"), "warn"),
        (judgement.direct_io(works=True), "ok"),
        (judgement.direct_io(works=False, why="EINVAL"), "warn"),
        (judgement.syncs(20), "warn"),
        (judgement.syncs(3000), "ok"),
        (judgement.syncs(1e6), "warn"),
        (judgement.room(10 << 30, 20 << 30, 10**6), "ok"),
        (judgement.room(10 << 30, 20 << 30, None), "ok"),
        (judgement.room(500 * MIB, 20 << 30, None), "warn"),
        (judgement.room(10 << 30, 20 << 30, 10), "warn"),
        (judgement.room(10 << 30, 20 << 30, 0), "fail"),
        (judgement.room(MIB, 20 << 30, None), "fail"),
        (judgement.clock(ahead_seconds=None, step_seconds=0, synchronized=None), "ok"),
        (judgement.clock(ahead_seconds=-5, step_seconds=0, synchronized=True), "ok"),
        (judgement.clock(ahead_seconds=-5, step_seconds=0, synchronized=False), "warn"),
        (judgement.clock(ahead_seconds=-5, step_seconds=-2, synchronized=True), "warn"),
        (judgement.clock(ahead_seconds=3600, step_seconds=0, synchronized=True), "fail"),
        (judgement.open_files(None, None), "ok"),
        (judgement.open_files(65536, 65536), "ok"),
        (judgement.open_files(256, None), "warn"),
        (judgement.memory(None), "ok"),
        (judgement.memory(4 << 30), "ok"),
        (judgement.memory(100 * MIB), "warn"),
        (judgement.file_size(None), "ok"),
        (judgement.file_size(1 << 40), "ok"),
        (judgement.file_size(MIB), "fail"),
        (judgement.core(0, 300), "ok"),
        (judgement.core(1, 300), "fail"),
    ],
)
def test_what_is_not_well_comes_with_advice(finding: Finding, state: str) -> None:
    assert finding.state == state
    assert bool(finding.advice) == (state != "ok")


def settings_of(path: Path, certificate: Path, key: Path, authority: Path) -> str:
    file = path / "server.toml"
    lines = f'certificate = "{certificate}"\nkey = "{key}"\nclient_authority = "{authority}"\n'
    file.write_text(f"[tls]\n{lines}")
    return str(file)


def test_certificates_of_a_server_are_looked_at(orders: Person, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    authority = Path(str(certificates.config(mutual=True).client_authority))
    now = datetime.now(tz=UTC)
    for until, state, said in (
        (now + timedelta(days=90), "ok", "is valid for 89 days"),
        (now + timedelta(days=29), "warn", "is valid for 28 days"),
        (now - timedelta(days=1), "fail", "has expired"),
    ):
        pair = certificates.issue("127.0.0.1", name="it", until=until)
        found = findings(orders, "--config", settings_of(tmp_path, *pair, authority))
        told = found["certificate of the server"]
        assert (told["state"], told["found"]) == (state, f"{pair[0]} {said}")
        assert ("renewed" in told["advice"]) == (state != "ok")
        assert found["authority of clients"]["state"] == "ok"
    other = certificates.issue("127.0.0.1", name="other")
    file = settings_of(tmp_path, other[0], pair[1], other[1])
    found = findings(orders, "--config", file)
    assert "both must be PEM, belong together" in found["certificate of the server"]["found"]
    assert found["authority of clients"]["state"] == "fail"
    assert findings(orders, "--config", str(other[0]))["settings"]["state"] == "fail"


def test_certificates_of_the_command_itself_are_looked_at(orders: Person, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    authority = Path(str(certificates.config(mutual=True).client_authority))
    certificate, key = map(str, certificates.server)
    words = ("--tls-cert", certificate, "--tls-key", key, "--tls-ca", str(authority))
    found = findings(orders, *words)
    assert found["certificate to show"]["state"] == found["authorities to believe"]["state"] == "ok"
    found = findings(orders, "--tls-ca", key)
    assert found["authorities to believe"]["state"] == "fail"


def certificate_for(usage: x509.ObjectIdentifier, path: Path) -> list[str]:
    """Return files of a certificate that is good for one use only, and of its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(tz=UTC)
    issuer, subject = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "it")
    )
    made = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (path / "it.pem").write_bytes(made.public_bytes(pem))
    (path / "it.key").write_bytes(key.private_bytes(pem, form, plain))
    return [str(path / "it.pem"), str(path / "it.key")]


@pytest.mark.parametrize("of_client", [True, False])
def test_certificates_are_for_those_who_show_them(
    orders: Person, tmp_path: Path, *, of_client: bool
) -> None:
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if of_client else ExtendedKeyUsageOID.SERVER_AUTH
    certificate, key = certificate_for(usage, tmp_path)
    shown = findings(orders, "--tls-cert", certificate, "--tls-key", key)["certificate to show"]
    assert shown["state"] == ("ok" if of_client else "fail")
    file = settings_of(tmp_path, Path(certificate), Path(key), Certificates(tmp_path).server[0])
    served = findings(orders, "--config", file)["certificate of the server"]
    assert served["state"] == ("fail" if of_client else "ok")
