"""The printed table."""

from bench.book import Entry, Line, entry_rows
from bench.loads import LOADS
from bench.table import number, render, render_lines
from tests.bench.books import pairs, sample


def test_pairs_have_both_values_a_ratio_and_a_spread() -> None:
    """The load's name once; a figure that is noisy is marked, and why is said below."""
    rows = entry_rows(LOADS["send-b1"], pairs((22_000, 11_000), (20_000, 8_000)))
    lines = render(rows).splitlines()
    assert lines[0].split() == ["load", "figure", "unit", "rmq", "Apache", "ratio", "spread"]
    assert lines[1].split() == ["send-b1", "messages", "/s", "21,000", "9,500", "2.25x", "22%", "~"]
    assert lines[2].split()[:3] == ["server", "CPU", "s/100k"]
    assert lines[-1] == "~ send-b1 messages, server CPU: spread 22%"
    assert len({line.index("s/100k" if "CPU" in line else "/s") for line in lines[1:3]}) == 1


def test_alone_the_goal_takes_the_place_of_apache() -> None:
    """Where there is one."""
    rows = entry_rows(LOADS["cold"], Entry(0.0, [{"rmq": {"first_send_s": 0.41}}]))
    lines = render(rows).splitlines()
    assert lines[0].split() == ["load", "figure", "unit", "rmq", "spread", "goal"]
    assert lines[1].split() == ["cold", "launch", "to", "first", "send", "s", "0.410", "0.5", "s"]


def test_what_holds_for_a_whole_load_is_said_once() -> None:
    """Not once a figure."""
    entry = Entry(2.0, [{"rmq": sample(100)}])
    assert render(entry_rows(LOADS["send-b1"], entry)).splitlines()[-1] == "~ send-b1: load average 2.0 at the start"


def test_a_table_of_notes_alone_is_a_table_too() -> None:
    """A long note does not widen the columns of the others."""
    rows = entry_rows(LOADS["fifo"], Entry(0.0, not_served="rmq says no " + "x" * 200))
    both = render([*rows, *entry_rows(LOADS["both"], Entry(0.0, [{"rmq": sample(1)}]))]).splitlines()
    assert both[1].startswith("fifo  not served: rmq says no xxx")
    assert len(both[2]) < 100


def test_numbers_show_three_digits_that_matter() -> None:
    """Whatever their size."""
    shown = [number(value) for value in (None, 0.01234, 1.234, 12.34, 123.4, 12_345.6)]
    assert shown == ["", "0.012", "1.23", "12.3", "123", "12,346"]


def test_in_process_figures_have_their_own_table() -> None:
    """What, unit, goal, value."""
    lines = render_lines([Line("a waiting poll", 2.345, "KiB", "4 KB")]).splitlines()
    assert [line.split() for line in lines] == [
        ["what", "unit", "goal", "value"],
        ["a", "waiting", "poll", "KiB", "4", "KB", "2.35"],
    ]
