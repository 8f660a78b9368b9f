"""Chains what a broker verb answers into a call's answer without a task: a value at once, or a Future with a callback.

Promises: a value costs one function call, what waits for the log hardly more. Does not schedule anything of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

from rmq.port import Answer, Later

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
    if isinstance(answer, Later):
        return answer.then(step, failed, abandoned)
    if isinstance(answer, asyncio.Future):
        return Later.of(answer, step, failed, abandoned)
    return step(answer)


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
