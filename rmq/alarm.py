"""One timer of the loop for all that is due by one clock.

It never sleeps longer than ALARM_MS_MAX: a wall clock that was set forward, by NTP or after the machine's sleep, is
noticed by then. One that was set back makes it ring in vain; who is rung looks at the clock again.
"""

import asyncio
from collections.abc import Callable

ALARM_MS_MAX = 1000


class Alarm:
    """Calls `ring` when `now_ms` reaches what was set, or earlier."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_ms: Callable[[], int], ring: Callable[[], None]) -> None:
        self._loop = loop
        self._now_ms = now_ms
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._due_ms = 0
        self._is_over = False

    def set(self, due_ms: int | None) -> None:
        """Rings then; nothing changes where it rings earlier already, where nothing is due (None), or once closed."""
        if due_ms is None or self._is_over or (self._timer is not None and self._due_ms <= due_ms):
            return
        self.cancel()
        now_ms = self._now_ms()
        self._due_ms = min(due_ms, now_ms + ALARM_MS_MAX)
        self._timer = self._loop.call_later(max(self._due_ms - now_ms, 0) / 1000, self._ring)

    def cancel(self) -> None:
        """It does not ring, until it is set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """It never rings again."""
        self._is_over = True
        self.cancel()
