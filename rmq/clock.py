"""Time, in three faces (design: nothing outside this file reads a clock).

wall_ms       delivery times, retention, record timestamps: the system's wall clock.
lease_ms      leases, back-off, transaction checks: wall time at start + time elapsed, so a clock step moves no lease.
monotonic_s   polls, deadlines, liveness, idle time: always real, ManualClock does not touch it.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What the broker is given instead of a clock of its own."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""

    def lease_ms(self) -> int:
        """Milliseconds since the Unix epoch as of start, then elapsed time: never steps."""

    def monotonic_s(self) -> float:
        """Seconds of `time.monotonic`: the event loop's own time."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._lease_base_ns = time.time_ns() - time.monotonic_ns()

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def lease_ms(self) -> int:
        """Wall time at start plus what has elapsed since."""
        return (self._lease_base_ns + time.monotonic_ns()) // 1_000_000

    monotonic_s = staticmethod(time.monotonic)  # each call is timed by it: no frame of our own


class ManualClock:
    """Real time plus an offset that `advance` grows; with `frozen` time moves by `advance` alone."""

    def __init__(self, *, frozen: bool = False) -> None:
        self._real = SystemClock()
        self._offset_ms = 0
        self._frozen_ms = self._real.wall_ms() if frozen else None

    def advance(self, *, hours: float = 0, minutes: float = 0, seconds: float = 0, ms: int = 0) -> int:
        """Moves wall and lease time forward; returns the whole offset in milliseconds."""
        step_ms = round((hours * 3600 + minutes * 60 + seconds) * 1000) + ms
        if step_ms < 0:
            raise ValueError("a ManualClock only moves forward")
        self._offset_ms += step_ms
        return self._offset_ms

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, moved by `advance`."""
        return (self._real.wall_ms() if self._frozen_ms is None else self._frozen_ms) + self._offset_ms

    def lease_ms(self) -> int:
        """As wall_ms, but a step of the system clock does not show."""
        return (self._real.lease_ms() if self._frozen_ms is None else self._frozen_ms) + self._offset_ms

    def monotonic_s(self) -> float:
        """Real seconds, whatever `advance` did."""
        return self._real.monotonic_s()
