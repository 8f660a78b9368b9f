"""Counting values by range."""

from hypothesis import given
from hypothesis import strategies as st

from rmq_store.histogram import Histogram

BOUNDS = (1, 5, 10)


@given(st.lists(st.integers(-3, 15)))
def test_each_value_is_counted_in_the_first_range_that_reaches_it(values: list[int]) -> None:
    """A value equal to a bound belongs to it; what is above all bounds has a range of its own."""
    one = Histogram(BOUNDS)
    for value in values:
        one.add(value)
    for bound in BOUNDS:
        below = sum(one.counts[: BOUNDS.index(bound) + 1])
        assert below == sum(value <= bound for value in values)
    assert (sum(one.counts), one.total) == (len(values), sum(values))


def test_many_equal_values_at_once() -> None:
    """The same as adding them one by one."""
    one = Histogram(BOUNDS)
    one.add(5, 3)
    assert (one.counts, one.total) == ([0, 3, 0, 0], 15)
