"""How long after an attempt the next one may come."""

import pytest

from rmq.retry import RETRY_STEPS_MS, RetryPolicy


@pytest.mark.parametrize(
    ("policy", "attempt", "delay_ms"),
    [
        (RetryPolicy(), 1, 1_000),
        (RetryPolicy(), 2, 5_000),
        (RetryPolicy(), 18, 7_200_000),
        (RetryPolicy(), 1000, 7_200_000),
        (RetryPolicy((7,)), 9, 7),
        (RetryPolicy(()), 1, 5_000),
        (RetryPolicy(()), 2, 10_000),
        (RetryPolicy(()), 11, 5_120_000),
        (RetryPolicy(()), 12, 7_200_000),
        (RetryPolicy(()), 10**9, 7_200_000),
        (RetryPolicy((), 100, 250, 1.5), 2, 150),
        (RetryPolicy((), 100, 250, 1.5), 9, 250),
    ],
)
def test_delays(policy: RetryPolicy, attempt: int, delay_ms: int) -> None:
    """The steps, the last one repeating; or the first delay multiplied for each attempt, up to the limit."""
    assert policy.delay_ms(attempt) == delay_ms


def test_the_default_steps_are_rocketmqs() -> None:
    """18 of them, from a second to two hours."""
    assert (len(RETRY_STEPS_MS), RETRY_STEPS_MS[0], RETRY_STEPS_MS[-1]) == (18, 1_000, 7_200_000)
