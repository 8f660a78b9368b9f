"""An answer to a scrape is made in slices, and once for all that ask meanwhile."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from rmq.metrics import Exposition
from rmq_proxy.scrape import SLICE_S, Scrape

Run = Callable[[Coroutine[Any, Any, None]], None]


class Work:
    """A source of many steps, each of which takes some of a clock's time."""

    def __init__(self, steps: int, step_s: float) -> None:
        self.now_s = 0.0
        self.runs = 0
        self._steps = steps
        self._step_s = step_s
        self.turns: list[int] = [0]  # steps by turn of the loop

    def clock(self) -> float:
        return self.now_s

    def source(self, page: Exposition) -> Iterator[None]:
        self.runs += 1
        family = page.family("rmq_steps", "gauge", "Steps.", "n")
        for step in range(self._steps):
            self.now_s += self._step_s
            self.turns[-1] += 1
            family.add(1, str(step))
            yield


async def turns_of(work: Work, answer: "asyncio.Future[bytes]") -> bytes:
    """The answer; `work.turns` notes what each turn did."""
    while not answer.done():
        work.turns.append(0)
        await asyncio.sleep(0)
    return answer.result()


def test_no_turn_goes_on_for_longer_than_a_slice(run: Run) -> None:
    """By the clock, however long a step takes; at least one step is done."""

    async def scenario() -> None:
        for step_s, per_turn in ((SLICE_S / 4, 4), (SLICE_S * 3, 1)):
            work = Work(20, step_s)
            text = await turns_of(work, Scrape(work.clock, [work.source]).answer())
            assert text.count(b"rmq_steps{") == 20
            assert max(work.turns) == per_turn

    run(scenario())


def test_who_asks_meanwhile_gets_the_same_answer(run: Run) -> None:
    """And who asks later, a new one."""

    async def scenario() -> None:
        work = Work(20, SLICE_S)
        scrape = Scrape(work.clock, [work.source])
        first, second = scrape.answer(), scrape.answer()
        assert await first == await second
        assert work.runs == 1
        await scrape.answer()
        assert work.runs == 2

    run(scenario())


def test_a_mistake_of_a_source_ends_that_answer_only(run: Run) -> None:
    """Those who wait are told, the next one is tried anew."""
    broken = [True]

    def source(page: Exposition) -> Iterator[None]:
        yield
        if broken:
            raise ZeroDivisionError(broken.pop())

    async def scenario() -> None:
        scrape = Scrape(time.monotonic)
        scrape.add(source)
        with pytest.raises(ZeroDivisionError):
            await scrape.answer()
        assert await scrape.answer() == b""

    run(scenario())
