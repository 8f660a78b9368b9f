"""An alarm rings when it is due, or earlier, never later than a second after it was set: the clock may be moved."""

import asyncio

from rmq.alarm import ALARM_MS_MAX, Alarm


class Loop:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []
        self.loop = asyncio.new_event_loop()

    def call_later(self, delay_s: float, ring: object) -> asyncio.TimerHandle:
        del ring
        self.delays_s.append(delay_s)
        return self.loop.call_later(1000, print)


def test_an_alarm_is_set_anew_only_for_what_is_earlier() -> None:
    """And sleeps a second at most; nothing due sets nothing."""
    fake = Loop()
    alarm = Alarm(fake, lambda: 10_000, print)  # type: ignore[arg-type]  # the one method that it calls
    alarm.set(None)
    alarm.set(3_600_000)
    alarm.set(3_000_000)
    alarm.set(10_500)
    alarm.set(10_600)
    alarm.set(9_000)
    alarm.cancel()
    alarm.cancel()
    alarm.set(10_007)
    assert fake.delays_s == [ALARM_MS_MAX / 1000, 0.5, 0, 0.007]
    fake.loop.close()


def test_an_alarm_that_is_closed_never_rings_again() -> None:
    """Neither as it was set, nor when it is set anew: a closed broker's sends may still do that."""
    fake = Loop()
    alarm = Alarm(fake, lambda: 10_000, print)  # type: ignore[arg-type]  # the one method that it calls
    alarm.set(10_500)
    alarm.close()
    alarm.set(10_100)
    assert fake.delays_s == [0.5]
    fake.loop.close()
