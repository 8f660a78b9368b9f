"""Answers that take more than one turn of the loop."""

import asyncio
from collections.abc import Iterator

import pytest

from rmq_proxy.answers import in_turns


def counting(done: list[int], end: int, fails_at: int = -1) -> Iterator[None]:
    """Steps that note that they were taken."""
    for number in range(end):
        if number == fails_at:
            raise ValueError("step failed")
        done.append(number)
        yield


def test_little_work_is_done_at_once() -> None:
    """No Future, no turn: it needs no loop either."""
    done: list[int] = []
    assert in_turns(counting(done, 4), done, 5) == [0, 1, 2, 3]


def test_much_work_leaves_turns_to_others() -> None:
    """So many steps in each, and the result after the last one."""

    async def work() -> None:
        done: list[int] = []
        answer = in_turns(counting(done, 12), done, 5)
        assert isinstance(answer, asyncio.Future)
        seen = []
        while not answer.done():
            seen.append(len(done))
            await asyncio.sleep(0)
        assert (seen, await answer) == ([5, 10], list(range(12)))

    asyncio.run(work())


@pytest.mark.parametrize("fails_at", [0, 7])
def test_a_step_that_fails_fails_the_answer(fails_at: int) -> None:
    """At once or later."""

    async def work() -> None:
        answer = in_turns(counting([], 12, fails_at), None, 5)
        assert isinstance(answer, asyncio.Future)
        await answer

    with pytest.raises(ValueError, match="step failed"):
        asyncio.run(work())


def test_work_that_nobody_waits_for_ends() -> None:
    """With the turn that is under way."""

    async def work() -> None:
        done: list[int] = []
        answer = in_turns(counting(done, 1000), None, 5)
        assert isinstance(answer, asyncio.Future)
        answer.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(done) == 5

    asyncio.run(work())
