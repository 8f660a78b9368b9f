"""A result that is still to come: its steps, its errors, who follows, and cancelling."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rmq_store.later import Later


def in_loop(body: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test as a plain function."""

    def run() -> None:
        asyncio.run(body())

    run.__doc__, run.__name__ = body.__doc__, body.__name__
    return run


def fresh() -> Later[Any]:
    """On the loop that runs."""
    return Later(loop=asyncio.get_running_loop())


def plain() -> "asyncio.Future[Any]":
    """Asyncio's own."""
    return asyncio.get_running_loop().create_future()


@in_loop
async def test_steps_and_followers_are_taken_in_the_frame_that_resolves() -> None:
    """No turn of the loop is between them."""
    first, seen = fresh(), []
    second = first.then(lambda number: number + 1, None).then(str, None)
    second.follow(lambda done: seen.append(done.result()))
    first.resolve(1)
    assert seen == ["2"]
    assert await second == "2"


@in_loop
async def test_the_first_step_makes_no_other_object() -> None:
    """Thousands of calls wait for one fsync."""
    first = fresh()
    chained: Later[Any] = first.then(str, None)
    assert chained is first
    again: Later[Any] = first.then(str, None)
    assert again is not first


@in_loop
async def test_a_step_may_take_a_while_itself() -> None:
    """Asyncio's Future, or one of ours; cancelling goes on to it."""
    first, slow, last = fresh(), plain(), fresh()
    chained: Later[Any] = first.then(lambda number: slow, None).then(lambda number: last, None)
    first.resolve(1)
    slow.set_result(2)
    await asyncio.sleep(0)
    assert not chained.done()
    last.resolve(3)
    assert await chained == 3

    first, slow = fresh(), plain()
    chained = first.then(lambda number: slow, None)
    first.resolve(1)
    chained.cancel()
    assert slow.cancelled()


@in_loop
async def test_an_error_is_passed_on_or_becomes_a_result_or_another_error() -> None:
    """A step's own, too; whoever follows hears of each."""
    heard: list[BaseException | None] = []

    def again(error: Exception) -> str:
        raise KeyError(str(error))

    bare, kept, changed = fresh(), fresh(), fresh()
    shaped: Later[Any] = kept.then(str, repr)
    changed.then(lambda number: 1 // number, again).follow(lambda done: heard.append(done.exception()))
    bare.reject(ValueError("x"))
    kept.reject(ValueError("x"))
    changed.resolve(0)
    with pytest.raises(ValueError, match="x"):
        await bare
    assert await shaped == "ValueError('x')"
    assert [type(error) for error in heard] == [KeyError]


@in_loop
async def test_of_any_future_takes_a_step_of_its_result_or_error() -> None:
    """What is cancelled cancels it."""
    good, bad, gone = plain(), plain(), plain()
    answers = [Later.of(one, lambda number: number + 1, lambda error: -1) for one in (good, bad, gone)]
    good.set_result(1)
    bad.set_exception(ValueError())
    gone.cancel()
    assert [await answers[0], await answers[1]] == [2, -1]
    with pytest.raises(asyncio.CancelledError):
        await answers[2]


@in_loop
async def test_a_result_that_comes_too_late_is_handed_back_where_somebody_minds() -> None:
    """Messages that were taken for a poll whose client has left must go to another."""
    lost: list[int] = []
    inner = fresh()
    answer: Later[str] = Later.of(inner, str, None, lost.append)
    asyncio.Future.cancel(answer)  # as if the two met: what it waits for was resolved already
    inner.resolve(7)
    assert lost == [7]


@in_loop
async def test_cancelling_reaches_what_it_waits_for_only_where_it_was_told_so() -> None:
    """Other calls may wait for the same thing; followers hear of it either way, and later results change nothing."""
    shared, own = fresh(), plain()
    heard: list[bool] = []
    one: Later[str] = Later.of(shared, str, None)
    other: Later[str] = Later.of(own, str, None, lambda result: None)
    one.follow(lambda done: heard.append(done.cancelled()))
    assert [one.cancel(), one.cancel(), other.cancel()] == [True, False, True]
    assert (shared.cancelled(), own.cancelled(), heard) == (False, True, [True])
    shared.resolve(1)
    one.resolve(1)
    one.reject(ValueError())
    assert heard == [True]
