"""The clock's three faces, and the one that tests move."""

import time

import pytest

from rmq.clock import ManualClock, SystemClock


def test_a_step_of_the_system_clock_moves_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time jumps by an hour, lease time does not; they start alike."""
    clock = SystemClock()
    assert abs(clock.wall_ms() - clock.lease_ms()) < 1000
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 3_600 * 10**9)
    assert clock.wall_ms() - clock.lease_ms() > 3_500_000


@pytest.mark.parametrize(
    ("step", "ms"), [({"hours": 24}, 86_400_000), ({"minutes": 1, "seconds": 1.5}, 61_500), ({"ms": 1}, 1), ({}, 0)]
)
def test_advance_moves_wall_and_lease_time(step: dict[str, int], ms: int) -> None:
    """A frozen clock by exactly that much; it answers the sum of all steps; polls' time is not touched."""
    clock = ManualClock(frozen=True)
    wall_ms, lease_ms, monotonic_s = clock.wall_ms(), clock.lease_ms(), clock.monotonic_s()
    assert (clock.advance(**step), clock.advance(**step)) == (ms, 2 * ms)
    assert (clock.wall_ms() - wall_ms, clock.lease_ms() - lease_ms) == (2 * ms, 2 * ms)
    assert clock.monotonic_s() - monotonic_s < 60


def test_a_manual_clock_that_is_not_frozen_runs() -> None:
    """Real time plus what it was moved by."""
    clock = ManualClock()
    clock.advance(hours=1)
    real = SystemClock()
    assert abs(clock.wall_ms() - real.wall_ms() - 3_600_000) < 1000
    assert abs(clock.lease_ms() - real.lease_ms() - 3_600_000) < 1000


def test_time_does_not_go_back() -> None:
    """A negative step is a mistake of the caller's."""
    with pytest.raises(ValueError, match="forward"):
        ManualClock().advance(seconds=-1)
