"""The group against the reference where the hatch is used: one shard, no limits of consumers."""

from hypothesis import settings, strategies as st
from hypothesis.stateful import initialize, precondition, rule

from hstreamlite.sub.retry import RetryPolicy
from hstreamlite.testing.group_model import CONSUMERS
from tests import effort
from tests.sub.test_group_machine import GroupMachine


class HatchMachine(GroupMachine):
    @initialize(
        most=st.integers(5, 40),
        span=st.integers(20, 80),
        consumers=st.sets(st.sampled_from(CONSUMERS), min_size=1),
        attempts=st.integers(0, 3),
    )
    def start(  # type: ignore[override]
        self, most: int, span: int, consumers: set[str], attempts: int
    ) -> None:
        super().start(
            max_unacked=most,
            per_consumer=0,
            span=span,
            tails=[60],
            consumers=consumers,
            wild=False,
            keys=1,
            retry=RetryPolicy(max_attempts=attempts),
        )

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data(), most=st.integers(1, 4), times=st.integers(1, 4), acks=st.booleans())
    def work(self, data: st.DataObject, most: int, times: int, acks: bool) -> None:
        """Fetch, which opens the hatch if it may be open, and take there what comes next."""
        self.offer(data, 5)
        self.fetch(data, most, queue=False, confirm=True)
        for _ in range(times):
            if self.model.consumers:
                self.take_at_the_hatch(data, most, 0, 40)
            if acks:
                self.ack_several(data, 3, ranged=False)


TestHatch = HatchMachine.TestCase
TestHatch.settings = settings(
    max_examples=effort.of(60, brief=15, nightly=600), stateful_step_count=40, deadline=None
)
