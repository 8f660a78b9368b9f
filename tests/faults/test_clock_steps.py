"""The wall clock steps an hour, forward and back: nothing is lost, no lease moves, nothing is delivered early."""

from pathlib import Path

import pytest

from rmq.clock import ManualClock
from tests.rmq.rig import INVISIBLE_MS, SMALL, Rig, bodies, config, request

HOUR_MS = 3_600_000
STEPS = pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])


class SteppedClock:
    """Stands still until `steady` is moved; its wall time can step, as NTP or a person makes it."""

    def __init__(self) -> None:
        self.steady = ManualClock(frozen=True)
        self.step_ms = 0
        self._step_at_start_ms = 0

    def started(self) -> None:
        """A new process takes the wall time of its start for lease time (rmq/clock.py)."""
        self._step_at_start_ms = self.step_ms

    def wall_ms(self) -> int:
        """With its step."""
        return self.steady.wall_ms() + self.step_ms

    def lease_ms(self) -> int:
        """With the step that was there at the start."""
        return self.steady.lease_ms() + self._step_at_start_ms

    def monotonic_s(self) -> float:
        """Real."""
        return self.steady.monotonic_s()


def stepped(folder: Path | None = None) -> tuple[Rig, SteppedClock]:
    """A broker on such a clock; the rig's own `advance` moves `steady`."""
    clock = SteppedClock()
    settings = config() if folder is None else config(flush="durable", data=str(folder), **SMALL)
    rig = Rig(settings, clock)
    rig.clock = clock.steady
    return rig, clock


@STEPS
def test_a_lease_ends_when_its_time_has_elapsed(step_ms: int) -> None:
    """Not before, not later; an ack meanwhile counts."""
    rig, clock = stepped()
    rig.send("a", "b")
    first, second = rig.receive(request(batch=2))
    clock.step_ms += step_ms
    rig.advance(INVISIBLE_MS - 1)
    assert rig.receive() == []
    assert rig.ack(second.handle) == [None]
    rig.advance(1)
    again = rig.one()
    assert (again.body, again.attempt) == (first.body, 2)
    rig.close()


@STEPS
def test_a_changed_invisible_duration_counts_from_now(step_ms: int) -> None:
    """In elapsed time, too."""
    rig, clock = stepped()
    rig.send("a")
    handle = rig.change(rig.one().handle, 60_000)
    clock.step_ms += step_ms
    rig.advance(59_999)
    assert rig.receive() == []
    assert rig.ack(handle) == [None]
    rig.advance(1)
    assert rig.receive() == []
    rig.close()


@STEPS
def test_messages_from_before_and_behind_a_step_are_all_there(tmp_path: Path, step_ms: int) -> None:
    """Store times fall where the clock goes back; neither order, nor a restart, nor retention minds an hour."""
    rig, clock = stepped(tmp_path / "data")
    rig.send("a", "b")
    clock.step_ms += step_ms
    rig.send("c")
    rig.clean()
    clock.started()
    rig.crash()
    rig.send("d")
    assert sorted(bodies(rig.receive(request(batch=10)))) == ["a", "b", "c", "d"]
    rig.close()


@STEPS
def test_after_a_restart_a_lease_waits_no_longer_than_it_was_to(tmp_path: Path, step_ms: int) -> None:
    """A clock that went back while the server was down does not hold the message for an hour."""
    rig, clock = stepped(tmp_path / "data")
    rig.send("a")
    rig.one()
    rig.settle()
    clock.step_ms += step_ms
    clock.started()
    rig.crash()
    rig.advance(INVISIBLE_MS)
    assert rig.one().attempt == 2
    rig.close()


def test_a_minute_of_standstill_is_a_minute_that_has_passed(tmp_path: Path) -> None:
    """A server that is down: what was due comes at once, what was not is still held."""
    rig, clock = stepped(tmp_path / "data")
    rig.send("short", "long")
    messages = {message.body: message for message in rig.receive(request(batch=2))}
    rig.change(messages[b"long"].handle, 120_000)
    clock.started()
    rig.crash(pause_ms=60_000)
    assert bodies(rig.receive(request(batch=10))) == ["short"]
    rig.advance(60_000)
    assert "long" in bodies(rig.receive(request(batch=10)))
    rig.close()
