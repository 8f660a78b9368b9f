"""Decides what becomes of a message that nobody acknowledged. Pure: no store, no clock."""

import msgspec

RETRY_STEPS_MS = tuple(
    s * 1000 for s in (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
)


MULTIPLIER_MAX = 100
BACKOFF_FIELDS = ("initial_ms", "max_ms", "multiplier")


class RetryPolicy(msgspec.Struct, frozen=True):
    """A group's redelivery back-off: `steps_ms` (customized), or exponential where `steps_ms` is empty.

    Defaults are RocketMQ 5.5's: 18 customized steps; exponential 5 s, doubled, at most 2 h (facts: grpc.md 2.2).
    """

    steps_ms: tuple[int, ...] = RETRY_STEPS_MS
    initial_ms: int = 5_000
    max_ms: int = 7_200_000
    multiplier: float = 2.0

    def delay_ms(self, attempt: int) -> int:
        """How long after delivery number `attempt` (the first is 1) the next one may come."""
        assert attempt >= 1
        if self.steps_ms:
            return self.steps_ms[min(attempt, len(self.steps_ms)) - 1]
        return int(min(self.initial_ms * self.multiplier ** min(attempt - 1, 64), self.max_ms))
