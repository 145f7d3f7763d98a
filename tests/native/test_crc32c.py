"""The checksum against two implementations that share nothing with it or each other."""

import random
from collections.abc import Callable
from pathlib import Path

import crcmod.predefined
import google_crc32c
import pytest
from hypothesis import given, strategies as st

from hstreamlite._native import ffi, lib

VARIANTS = [
    "hsl_crc32c",
    "hsl_crc32c_portable",
    *(["hsl_crc32c_sse42"] if lib.hsl_crc32c_has_sse42() else []),
    *(["hsl_crc32c_folded"] if lib.hsl_crc32c_has_folded() else []),
]
LENGTHS = range(2049)
ALIGNMENTS = range(8)
CPUINFO = Path("/proc/cpuinfo")
crcmod_crc32c: Callable[[bytes], int] = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

each_variant = pytest.mark.parametrize("variant", VARIANTS)
pieces = st.lists(st.binary(max_size=700), max_size=12)
starts = st.integers(0, 2**32 - 1)


def crc32c(data: bytes, start: int = 0, variant: str = "hsl_crc32c") -> int:
    crc: int = getattr(lib, variant)(start, ffi.from_buffer(data), len(data))
    return crc


@each_variant
def test_published_check_value(variant: str) -> None:
    assert crc32c(b"123456789", variant=variant) == 0xE3069283


@each_variant
@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
    ids=["zeros", "ones", "ascending", "descending"],
)
def test_iscsi_examples(variant: str, data: bytes, crc: int) -> None:
    assert crc32c(data, variant=variant) == crc


@each_variant
@pytest.mark.parametrize("start", [0, 1, 0xFFFFFFFF, 0xE3069283])
def test_nothing_changes_nothing(variant: str, start: int) -> None:
    assert crc32c(b"", start, variant) == start
    assert getattr(lib, variant)(start, ffi.NULL, 0) == start


@each_variant
@pytest.mark.parametrize("seed", [1, 2])
def test_every_short_length_at_every_alignment_agrees_with_both_oracles(
    variant: str, seed: int
) -> None:
    source = random.Random(seed).randbytes(LENGTHS.stop + ALIGNMENTS.stop)
    function = getattr(lib, variant)
    block = ffi.new("uint8_t[]", len(source) + 8)
    base = block + -int(ffi.cast("uintptr_t", block)) % 8
    for alignment in ALIGNMENTS:
        data = source[alignment : alignment + LENGTHS.stop]
        ffi.memmove(base + alignment, data, len(data))
        for length in LENGTHS:
            expected = google_crc32c.value(data[:length])
            assert function(0, base + alignment, length) == expected, (alignment, length)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_oracles_agree(seed: int) -> None:
    source = random.Random(seed).randbytes(LENGTHS.stop + ALIGNMENTS.stop)
    for alignment in ALIGNMENTS:
        for length in LENGTHS:
            data = source[alignment : alignment + length]
            assert crcmod_crc32c(data) == google_crc32c.value(data), (alignment, length)


@each_variant
@pytest.mark.parametrize("length", [6143, 6144, 6145, 12288, 16384, 65536 + 71, 1 << 20])
def test_long_buffers_agree_with_both_oracles(variant: str, length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32c(data, variant=variant) == google_crc32c.value(data) == crcmod_crc32c(data)


@each_variant
@given(pieces=pieces)
def test_in_pieces_or_whole_is_the_same(variant: str, pieces: list[bytes]) -> None:
    crc = 0
    for piece in pieces:
        crc = crc32c(piece, crc, variant)
    assert crc == google_crc32c.value(b"".join(pieces))


@given(data=st.binary(max_size=8192), start=starts)
def test_variants_agree_from_any_start(data: bytes, start: int) -> None:
    assert len({crc32c(data, start, variant) for variant in VARIANTS}) == 1


@given(data=st.binary(min_size=1, max_size=4096), bit=st.integers(0))
def test_any_flipped_bit_changes_the_checksum(data: bytes, bit: int) -> None:
    bit %= len(data) * 8
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    assert crc32c(bytes(damaged)) != crc32c(data)


@pytest.mark.skipif(not CPUINFO.exists(), reason="only Linux lists the processor's features")
@pytest.mark.skipif(bool(lib.hsl_io_portable()), reason="built without what a processor has")
def test_the_fast_variant_is_used_where_the_processor_has_it() -> None:
    flags = CPUINFO.read_text(encoding="ascii").split()
    with_instruction = "sse4_2" in flags and "pclmulqdq" in flags
    assert bool(lib.hsl_crc32c_has_sse42()) == with_instruction
    with_folding = with_instruction and "avx512f" in flags and "vpclmulqdq" in flags
    assert bool(lib.hsl_crc32c_has_folded()) == with_folding
