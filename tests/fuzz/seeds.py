"""Inputs for `decoders.c`: the golden images, and what the fuzzer found of use before.

    python -m tests.fuzz.seeds DIRECTORY              writes them
    python -m tests.fuzz.seeds --keep DIRECTORY       packs a directory as what was found

Before `--keep`, have the fuzzer choose: `build/fuzz/decoders -merge=1 DIRECTORY build/fuzz/found`.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.log.golden import make

FOUND = Path(__file__).parent / "corpus.tar.xz"
SEGMENT, SUPER, STAGE, TAIL, BLOCK, RECORDS = range(6)
FIX = 0x80
PAGE = 4096
LEAST_SEEDS = 200


def used(data: bytes) -> bytes:
    """Return the file without the zeros behind the last page in use."""
    end = len(data.rstrip(b"\0"))
    return data[: -(-end // PAGE) * PAGE]


def blocks(data: bytes) -> Iterator[bytes]:
    """Yield the blocks of a segment, header and payload."""
    at = PAGE
    while (at := data.find(b"HB\1", at)) >= 0:
        length = 56 + int.from_bytes(data[at + 32 : at + 36], "little")
        yield data[at : at + length]
        at += length


def golden() -> Iterator[tuple[int, int, bytes]]:
    """Yield (decoder, hint, data)."""
    for name in make.IMAGES:
        for path, data in sorted(make.load(name).items()):
            if path.endswith(".seg"):
                for hint in (0, 1 << 5, 1 << 6):
                    yield SEGMENT, hint, used(data)
                for block in list(blocks(data))[::9]:
                    yield BLOCK, 0, block
                    yield RECORDS, 0, block[56:]
            elif path == "SUPER":
                yield SUPER, 0, data
            elif path == "STAGE":
                yield STAGE, 0, used(data)
            elif path == "TAIL":
                yield TAIL, 0, data


def inputs() -> Iterator[bytes]:
    """Yield every golden input as it is and again to be repaired, then what was found."""
    for decoder, hint, data in golden():
        yield bytes([decoder, hint]) + data
        yield bytes([decoder | FIX, hint]) + data
    with tarfile.open(FOUND) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            yield file.read()


def write(directory: Path) -> int:
    """Write the inputs under names made of their content; return their number."""
    directory.mkdir(parents=True, exist_ok=True)
    for content in inputs():
        (directory / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    return len(list(directory.iterdir()))


def keep(directory: Path) -> None:
    """Pack the files of a directory."""
    with tarfile.open(FOUND, "w:xz", preset=9) as archive:
        for path in sorted(directory.iterdir()):
            content = path.read_bytes()
            info = tarfile.TarInfo(path.name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    if sys.argv[1] == "--keep":
        keep(Path(sys.argv[2]))
        sys.exit()
    number = write(Path(sys.argv[1]))
    print(f"{number} inputs")
    sys.exit(number < LEAST_SEEDS and "too few of them")
