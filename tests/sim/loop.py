"""An event loop and workers without threads, sockets or real time: what happens is decided by the calls and a seed.

Time is virtual: it stands still while something is ready, and jumps to the next timer when a caller waits. A worker's
job runs as a whole, in its turn or as soon as someone asks for its result; `delays_s` says how long it may wait. So a
run with the same seed and the same calls is the same run.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
DELAYS_S = (0.0, 0.0, 0.0005, 0.003)
_STEP_S = 0.001


class SimLoop(asyncio.BaseEventLoop):
    """One life of a process; `now_s` is where its time begins. Coroutines are not for it: the broker has none."""

    _ready: deque[asyncio.Handle]
    _run_once: Callable[[], None]

    def __init__(self, now_s: float = 0.0) -> None:
        super().__init__()
        self._now_s = now_s
        self._selector = self  # what the base class waits for: select() below
        self.set_exception_handler(lambda loop, context: None)  # a killed process's Futures complain to nobody

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def select(self, timeout_s: float | None) -> Sequence[object]:
        """Nothing is ready: it is later. Raises AssertionError where that would be for ever."""
        assert timeout_s is not None, "the loop waits and nothing will ever happen"
        self._now_s += timeout_s
        return ()

    def run_ready(self, turns: int) -> None:
        """What is ready now, and what that makes ready, so many times at the most. Time does not pass."""
        while turns > 0 and self._ready:
            self._run_once()
            turns -= 1

    def run_until(self, done: Callable[[], bool], within_s: float) -> None:
        """Until it is so; time passes as it must. Raises AssertionError when that takes too long."""
        deadline_s = self._now_s + within_s
        while not done():
            assert self._now_s <= deadline_s, f"it is not done within {within_s} s"
            if not self._ready:
                self.call_later(_STEP_S, lambda: None)
            self._run_once()

    def _process_events(self, event_list: object) -> None:
        pass  # there are none

    def _write_to_self(self) -> None:
        pass  # nobody else is there to wake it


class SimFuture(Future[T]):
    """A job's result: who asks for it makes its worker get there."""

    def __init__(self, worker: "SimWorker") -> None:
        super().__init__()
        self._worker = worker

    def result(self, timeout: float | None = None) -> T:
        """See Future."""
        self._worker.run_until(self.done)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See Future."""
        self._worker.run_until(self.done)
        return super().exception(timeout)


class SimWorker(Executor):
    """One worker, which does its jobs in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self._jobs: deque[Callable[[], None]] = deque()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor."""
        future: SimFuture[T] = SimFuture(self)

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:  # whatever it is belongs to who asks for the result
                future.set_exception(error)

        self._jobs.append(run)
        self._loop.call_later(self._rng.choice(DELAYS_S), self._run_next)
        return future

    def _run_next(self) -> None:
        if self._jobs:
            self._jobs.popleft()()

    def run_until(self, done: Callable[[], bool]) -> None:
        """Does jobs until that is so."""
        while not done() and self._jobs:
            self._run_next()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor: what was submitted is done."""
        del wait, cancel_futures
        self.run_until(lambda: False)

    def drop(self) -> None:
        """The process is gone: what it had not begun is never done."""
        self._jobs.clear()
