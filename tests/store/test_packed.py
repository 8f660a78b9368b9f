"""Pairs in packed arrays are what a list of them would be, whatever chunks they lie in."""

from array import array
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_store import packed
from rmq_store.packed import PackedPairs

PAIRS = st.tuples(st.integers(0, 12), st.integers(-(1 << 63), (1 << 63) - 1))
STEPS = st.lists(st.tuples(st.sampled_from("aaaaaarrfs"), PAIRS, st.integers(0, 60)), max_size=120)


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    """So that a few pairs have several."""
    with mock.patch.multiple(packed, _PAIRS_MAX=6, _PAIRS_MIN=2):
        yield


class Rows:
    """The model: a list, sorted by the lefts, which never looks for a place."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []

    def step(self, pairs: PackedPairs, what: str, pair: tuple[int, int], number: int) -> None:
        """Does the same to both."""
        if what == "a":
            self.rows = sorted([*self.rows, pair], key=lambda row: row[0])
            pairs.add(*pair)
        elif what == "r" and self.rows:
            gone = self.rows[number % len(self.rows)]
            self.rows.remove(gone)
            assert pairs.remove(*gone)
        elif what == "f":
            front = list(pairs.front(number % 9 + 1))
            assert [right for left, right in self.rows if left == self.rows[0][0]][: len(front)] == front
            assert bool(front) == bool(self.rows)
            del self.rows[: len(front)]
            if front:
                pairs.drop_first(len(front))
        elif what == "s":
            left = pair[0]
            self.rows.sort(key=lambda row: (row[0], row[1] if row[0] == left else 0))
            pairs.sort(left)


def test_pairs_are_what_a_sorted_list_would_have(small_chunks: None) -> None:
    """Added in any order, taken from the middle and the front, sorted within a left; every question's answer."""

    @given(st.lists(PAIRS, max_size=30), STEPS)
    def check(begun: list[tuple[int, int]], steps: list[tuple[str, tuple[int, int], int]]) -> None:
        model, pairs = Rows(), PackedPairs()
        model.rows = sorted(begun, key=lambda row: row[0])
        pairs.fill(array("q", [left for left, _ in model.rows]), array("q", [right for _, right in model.rows]))
        for what, pair, number in steps:
            model.step(pairs, what, pair, number)
            rows = model.rows
            assert (list(pairs), len(pairs)) == (rows, len(rows))
            assert pairs.first() == (rows[0][0] if rows else None)
            left = pair[0]
            assert pairs.after(left) == min((row[0] for row in rows if row[0] > left), default=None)
            mine = [row[1] for row in rows if row[0] == left]
            assert list(pairs.rights(left, number % 9)) == mine[: number % 9]
            assert pairs.has(*pair) == (pair in rows)
            assert pair in rows or not pairs.remove(*pair)

    check()


def test_rising_pairs_fill_their_chunks() -> None:
    """As most timers do that a client sends with one delay: no chunk stays half empty."""
    pairs = PackedPairs()
    for n in range(60):
        pairs.add(n, n)
    assert len(pairs._chunks) == 10


def test_chunks_that_lost_most_are_joined() -> None:
    """However few pairs are left of each."""
    pairs = PackedPairs()
    for n in range(60):
        pairs.add(n, n)
    for n in range(60):
        if n % 6:
            pairs.remove(n, n)
    assert list(pairs) == [(n, n) for n in range(0, 60, 6)]
    assert len(pairs._chunks) <= 5
    pairs.clear()
    assert (list(pairs), len(pairs), pairs.first()) == ([], 0, None)
