"""Leases: how long a consumer behind a connection may be silent. Others need none."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.conformance.faces import REMOTE, Store, only, ready

pytestmark = pytest.mark.asyncio


@only(*REMOTE)
async def test_a_lease_is_some_seconds(store: Store) -> None:
    await store.create_stream("orders")
    subscription = await store.create_subscription("billing", stream="orders")
    for good in (300, timedelta(seconds=1), 0.1):
        async with subscription.consumer("w", lease=good):
            assert (await subscription.info()).consumers == ("w",)
    for bad in (0, 0.09, 300.1, float("nan"), -1):
        with pytest.raises(ValueError, match=r"lease must be from 0\.1 to 300 seconds"):
            await ready(subscription.consumer("w", lease=bad))
    for bad in ("1", True, None):
        with pytest.raises(TypeError, match="lease must be"):
            await ready(subscription.consumer("w", lease=bad))
