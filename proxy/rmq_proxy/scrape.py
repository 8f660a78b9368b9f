"""Answers GET /metrics: asks every source, in slices of the loop's time, and never twice at once.

Whoever asks while an answer is being made gets that one: many askers cost what one costs.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

from rmq.metrics import Exposition, Source

SLICE_S = 0.002
"""How long it goes on in one turn of the loop; one step of a source takes well under a millisecond."""


class Scrape:
    """`sources` in the order of the answer; `base`: labels of every metric with RocketMQ's own name."""

    def __init__(
        self, monotonic_s: Callable[[], float], sources: Iterable[Source] = (), base: Mapping[str, str] | None = None
    ) -> None:
        self._now_s = monotonic_s
        self._sources = list(sources)
        self._base = base or {}
        self._under_way: asyncio.Future[bytes] | None = None

    def add(self, source: Source) -> None:
        """One more."""
        self._sources.append(source)

    def answer(self) -> "asyncio.Future[bytes]":
        """The whole answer, in Prometheus' text format; to be looked at only, others may wait for the same."""
        if self._under_way is None:
            loop = asyncio.get_running_loop()
            self._under_way = loop.create_future()
            page = Exposition(self._base)
            loop.call_soon(self._go_on, page, self._ask(page), self._under_way)
        return self._under_way

    def _ask(self, page: Exposition) -> Iterator[None]:
        for source in self._sources:
            yield from source(page)

    def _go_on(self, page: Exposition, work: Iterator[None], answer: "asyncio.Future[bytes]") -> None:
        end_s = self._now_s() + SLICE_S
        try:
            for _ in work:
                if self._now_s() >= end_s:
                    answer.get_loop().call_soon(self._go_on, page, work, answer)
                    return
            text = page.encode()
        except Exception as error:  # whatever went wrong belongs to those who wait
            self._under_way = None
            answer.set_exception(error)
        else:
            self._under_way = None
            answer.set_result(text)
