"""How often a value fell into which range. A count is one addition; nothing here knows a clock or a text format."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """`counts[i]`: values up to `bounds[i]` and above the bound before; the last count: those above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  # the sum of all values

    def add(self, value: float, times: int = 1) -> None:
        """Counts `value` so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times
