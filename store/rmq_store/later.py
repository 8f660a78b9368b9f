"""What a verb answers when its result has to wait: one Future, which hands its result on without a turn of the loop.

An asyncio callback costs a handle and a turn of the loop, and a call's answer has three of them between the log and the
socket. So the steps on that way are kept here, and taken in the frame that resolves it. Does not schedule anything of
its own; awaiting it, and `add_done_callback`, are asyncio's as usual.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


class Later(asyncio.Future[T]):
    """A result that is still to come, for one who waits for it."""

    __slots__ = ("_abandoned", "_failed", "_follower", "_inner", "_step")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._step: Callable[[Any], Any] | None = None
        self._failed: Callable[[Exception], Any] | None = None
        self._abandoned: Callable[[Any], None] | None = None
        self._inner: asyncio.Future[Any] | None = None  # what it waits for, where cancelling is passed on to it
        self._follower: Callable[[Later[T]], None] | None = None

    def follow(self, follower: "Callable[[Later[T]], None]") -> None:
        """`follower` hears, once, that it is done or cancelled; in the very frame, so it must not raise."""
        self._follower = follower

    def then(
        self,
        step: "Callable[[T], R | asyncio.Future[R]]",
        failed: Callable[[Exception], R] | None,
        abandoned: Callable[[T], None] | None = None,
    ) -> "Later[R]":
        """It resolves with `step` of its result instead; `failed` turns an error into a result, or raises another.

        The same object, where nobody has asked for it in its first shape. `abandoned`: see `of`.
        """
        if self._step is not None or self._follower is not None or self.done():
            return Later.of(self, step, failed, abandoned)
        self._step, self._failed, self._abandoned = step, failed, abandoned
        return cast("Later[R]", self)

    @classmethod
    def of(
        cls,
        answer: "asyncio.Future[T]",
        step: Callable[[T], Any],
        failed: Callable[[Exception], R] | None,
        abandoned: Callable[[T], None] | None = None,
    ) -> "Later[R]":
        """`step` of any Future's result. With `abandoned` cancelling is passed on, and a result that comes all the same
        is handed to it; without, `answer` is left alone.
        """
        later: Later[R] = Later(loop=answer.get_loop())
        later._step, later._failed, later._abandoned = step, failed, abandoned
        if abandoned is not None:
            later._inner = answer
        later._wait(answer)
        return later

    def _wait(self, answer: "asyncio.Future[Any]") -> None:
        if isinstance(answer, Later) and answer._follower is None and not answer.done():  # one of us
            answer.follow(self._resume)
        else:
            answer.add_done_callback(self._resume)

    def resolve(self, result: Any) -> None:
        """Takes the steps, and tells who follows. Nothing happens where it is cancelled by now."""
        if self.done():
            if self._abandoned is not None:
                self._abandoned(result)
            return
        if self._step is not None:
            try:
                result = self._step(result)
            except Exception as caught:  # whatever went wrong belongs to the one who waits
                self.reject(caught)
                return
            if isinstance(result, asyncio.Future):
                self._go_on(result)
                return
        self.set_result(result)
        if self._follower is not None:
            self._follower(self)

    def reject(self, error: Exception) -> None:
        """As `resolve`, with an error."""
        if self.done():
            return
        if self._failed is None:
            self.set_exception(error)
        else:
            try:
                self.set_result(self._failed(error))
            except Exception as told:
                self.set_exception(told)
        if self._follower is not None:
            self._follower(self)

    def _go_on(self, result: "asyncio.Future[Any]") -> None:
        """The step itself takes a while; nobody else waits for that."""
        self._step, self._abandoned, self._inner = None, None, result
        self._wait(result)

    def _resume(self, answer: "asyncio.Future[Any]") -> None:
        self._inner = None
        if answer.cancelled():
            self.cancel()
            return
        error = answer.exception()
        if error is None:
            self.resolve(answer.result())
        else:
            self.reject(cast(Exception, error))

    def cancel(self, msg: Any | None = None) -> bool:
        """Passed on, where `of` was told so; who follows hears of it."""
        cancelled, inner = super().cancel(msg), self._inner
        if not cancelled:
            return False
        if inner is not None:
            inner.cancel()
        if self._follower is not None:
            self._follower(self)
        return True
