"""Ends calls whose deadline has passed: one timer for all, so that a call that waits costs no timer of its own.

The client keeps its own, exact time and resets the call; ours only frees what waits for a client that does not tell.
"""

import asyncio
import heapq
import math
from typing import Protocol, TypeAlias

STEP_S = 0.1
"""A call is ended at most this much after its deadline, never before."""


class Waiting(Protocol):
    """A call that can be ended."""

    def expire(self) -> None:
        """Its deadline has passed."""


Step: TypeAlias = set[Waiting]
"""The calls that are due in one step of time."""


class Deadlines:
    """Calls by the step of time in which they are due."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: dict[int, Step] = {}
        self._order: list[int] = []  # a heap of the steps
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Waiting, deadline_s: float) -> Step:
        """Returns the step: a call that is over discards itself from it, more than once if need be."""
        step = math.ceil(deadline_s / STEP_S)
        calls = self._steps.get(step)
        if calls is None:
            calls = self._steps[step] = set()
            heapq.heappush(self._order, step)
        calls.add(call)
        if self._timer is None:
            self._timer = self._loop.call_later(STEP_S, self._tick)
        return calls

    def _tick(self) -> None:
        now = self._loop.time() / STEP_S
        while self._order and (self._order[0] <= now or not self._steps[self._order[0]]):
            for call in tuple(self._steps.pop(heapq.heappop(self._order))):  # each discards itself on the way
                call.expire()
        self._timer = self._loop.call_later(STEP_S, self._tick) if self._order else None

    def close(self) -> None:
        """No timer is left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
