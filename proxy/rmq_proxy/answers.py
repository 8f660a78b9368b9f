"""Chains what a broker verb answers into a call's answer without a task: a value at once, or a Future with a callback.

Promises: a value costs one function call; a Future costs one more Future. Does not schedule anything of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from rmq.port import Answer

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)


def then(
    answer: Answer[T],
    step: Callable[[T], Answer[R]],
    failed: Callable[[Exception], R] | None = None,
    abandoned: Callable[[T], None] | None = None,
) -> Answer[R]:
    """`step` of the answer, now or when it comes.

    `failed` turns a late error into a result, or raises another (without it the error is passed on); an error at once
    is raised as usual.
    With `abandoned`, cancelling what is returned cancels `answer` too, and a result that comes all the same is handed
    to it; without, `answer` is left alone: other calls may wait for the same fsync.
    """
    if not isinstance(answer, asyncio.Future):
        return step(answer)
    return Chained(answer, step, failed, abandoned)


class Chained(asyncio.Future[R]):
    """`step` of an answer that is still to come: see `then`. One object, one callback: many calls wait at once."""

    __slots__ = ("_abandoned", "_cancels", "_failed", "_step")

    def __init__(
        self,
        answer: "asyncio.Future[Any]",
        step: Callable[[Any], Answer[R]],
        failed: Callable[[Exception], R] | None,
        abandoned: Callable[[Any], None] | None,
    ) -> None:
        super().__init__(loop=answer.get_loop())
        self._step = step
        self._failed = failed
        self._abandoned = abandoned
        self._cancels = answer if abandoned is not None else None
        answer.add_done_callback(self._resume)

    def cancel(self, msg: Any | None = None) -> bool:
        """Passed on, where `then` says so."""
        cancelled, inner = super().cancel(msg), self._cancels
        if cancelled and inner is not None:
            inner.cancel()
        return cancelled

    def _resume(self, answer: "asyncio.Future[Any]") -> None:
        self._cancels = None
        if answer.cancelled():
            self.cancel()
            return
        error = answer.exception()
        if self.done():
            if error is None and self._abandoned is not None:
                self._abandoned(answer.result())
            return
        try:
            if error is not None:
                raise error
            result = self._step(answer.result())
        except Exception as caught:  # whatever went wrong belongs to the one who waits
            self._fail(caught)
            return
        if isinstance(result, asyncio.Future):
            self._go_on(result)
        else:
            self.set_result(result)

    def _go_on(self, result: "asyncio.Future[R]") -> None:
        """The step itself takes a while; nobody else waits for that."""
        self._step, self._abandoned, self._cancels = _same, None, result
        result.add_done_callback(self._resume)

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            self.set_exception(error)
            return
        try:
            self.set_result(self._failed(error))
        except Exception as told:
            self.set_exception(told)


def _same(result: R) -> R:
    return result


def in_turns(work: Iterator[object], result: T, per_turn: int) -> Answer[T]:
    """`result` once `work` is done, `per_turn` of its steps in one turn of the loop; at once where that is enough.

    An error of a step is raised or, later, the Future's. Cancelling the Future ends the work.
    """
    if _is_done(work, per_turn):
        return result
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    answer.get_loop().call_soon(_go_on, work, answer, result, per_turn)
    return answer


def _is_done(work: Iterator[object], steps: int) -> bool:
    return sum(1 for _ in islice(work, steps)) < steps


def _go_on(work: Iterator[object], answer: "asyncio.Future[T]", result: T, per_turn: int) -> None:
    if answer.done():
        return
    try:
        if _is_done(work, per_turn):
            answer.set_result(result)
            return
    except Exception as caught:  # whatever went wrong belongs to the one who waits
        answer.set_exception(caught)
        return
    answer.get_loop().call_soon(_go_on, work, answer, result, per_turn)


def let_go(_: object) -> None:
    """What was read belongs to nobody: an answer that nobody waits for needs no undoing (`then`'s `abandoned`)."""


def ignore(answer: object, what: str) -> None:
    """For an answer that nobody waits for: a late error is logged as `what`, never raised."""
    if isinstance(answer, asyncio.Future):
        answer.add_done_callback(partial(_log_error, what))


def _log_error(what: str, answer: "asyncio.Future[object]") -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        log.warning("%s: %s", what, error)
