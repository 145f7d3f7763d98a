"""Lists of payloads: stored as if each were encoded for itself, whatever they seemed at first.

A list that looks as if it were of bytes is encoded before all of it was looked at.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config

MOST = small_config().batch_bytes_max
payloads = st.one_of(
    st.binary(max_size=20), st.integers(100, 300).map(bytes), st.binary(max_size=9).map(bytearray)
)


def amid(item: object, others: bytes = b"x" * 100, count: int = 30) -> list[object]:
    """Return a list whose first, eighth, last and most other items do not tell of one of them."""
    return [others, item, *[others] * (count - 2)]


@given(
    st.one_of(st.lists(payloads, max_size=40), st.lists(st.just(bytes(100)), max_size=60)),
    st.one_of(st.none(), st.text(min_size=1, max_size=100)),
)
@example([b"x" * n for n in (100, 121, 122, 127, 128, 0, 1, 15, 16, 17)], None)
@example(amid(b"x" * 300), "key")
@example(amid(b"x" * (MOST - 10)), None)
@example(amid(bytearray(100)), None)
@example(amid(hs.Record(b"x" * 100, key="own")), "key")
def test_a_list_is_stored_as_its_records_are_encoded(items: list[bytes], key: str | None) -> None:
    with hs.open("/db", env=SimEnv(), config=small_config()) as store:
        stream = store.create_stream("a")
        ids = stream.append_many(items, key=key)
        batches = list(stream.read_batches())
    assert b"".join(batch.payload for batch in batches) == fast.encode_batch(items, key)
    assert all(len(batch.payload) <= MOST for batch in batches)
    assert [one.batch_index for one in ids] == [n for batch in batches for n in range(len(batch))]


@pytest.mark.parametrize("odd", [None, 1, object()])
def test_a_list_with_what_is_no_payload_stages_nothing(odd: object) -> None:
    with hs.open("/db", env=SimEnv(), config=small_config()) as store:
        stream = store.create_stream("a")
        stream.append_many([b"before"])
        with pytest.raises(TypeError):
            stream.append_many(amid(odd))  # type: ignore[arg-type]
        stream.append_many([b"behind"] * 20)
        assert [record.payload for record in stream.read()] == [b"before", *[b"behind"] * 20]
