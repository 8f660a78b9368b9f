"""Values on the command line."""

from collections.abc import Callable

import click
import pytest

from rmq.commands import values


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.duration, "500ms", 500),
        (values.duration, "10s", 10_000),
        (values.duration, "5m", 300_000),
        (values.duration, "2h", 7_200_000),
        (values.duration, "1d", 86_400_000),
        (values.durations, "1s, 2s", (1000, 2000)),
        (values.moment, "1790000000000", 1_790_000_000_000),
        (values.moment, "2026-09-21", 1_789_948_800_000),
        (values.moment, "2026-09-21 14:13:20.5", 1_790_000_000_500),
        (values.moment, "2026-09-21T14:13:20-01:00", 1_790_003_600_000),
        (values.place, "begin", "begin"),
        (values.place, "0", 0),
        (values.pair, "a=", ("a", "")),
        (values.queue_offset, "0:17", (0, 17)),
    ],
)
def test_what_a_word_means(parse: Callable[[str], object], text: str, value: object) -> None:
    """Times without a zone are local; the tests' zone is UTC."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (values.duration, "10"),
        (values.duration, "-1s"),
        (values.duration, "1.5s"),
        (values.duration, "\u0661s"),
        (values.durations, "1s,,2s"),
        (values.moment, "tomorrow"),
        (values.moment, "999999999999999"),
        (values.moment, "-5"),
        (values.place, "middle"),
        (values.pair, "=x"),
        (values.pair, "x"),
        (values.queue_offset, "1:"),
        (values.queue_offset, "1:-1"),
    ],
)
def test_what_means_nothing_is_refused(parse: Callable[[str], object], text: str) -> None:
    """With how to write it."""
    with pytest.raises(click.BadParameter, match=r"write|neither|no KEY"):
        parse(text)
