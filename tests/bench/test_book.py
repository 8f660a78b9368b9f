"""Medians, spread and noise; which file is continued."""

from pathlib import Path

import msgspec
import pytest

from bench import book as books
from bench.book import Entry
from bench.loads import LOADS
from tests.bench.books import book, pairs, sample

SEND = LOADS["send-b1"]


def test_a_ratio_is_the_median_of_the_pairs_not_the_ratio_of_medians() -> None:
    """The two of a pair have had the same machine; rounds may not."""
    row = books.entry_rows(SEND, pairs((100, 100), (300, 150), (220, 200)))[0]
    assert row.values == {"rmq": 220, "apache": 150}
    assert row.ratio == pytest.approx(1.1)
    assert row.spread == pytest.approx((2.0 - 1.0) / 1.1)


def test_alone_the_spread_is_that_of_the_values() -> None:
    """No ratio then."""
    row = books.entry_rows(SEND, Entry(0.0, [{"rmq": sample(rate)} for rate in (90, 100, 104)]))[0]
    assert row.ratio is None
    assert row.spread == pytest.approx(0.14)
    assert row.noise == ["spread 14%"]


def test_one_round_has_no_spread() -> None:
    """Nothing to compare it with, so nothing is said of it."""
    row = books.entry_rows(SEND, Entry(0.0, [{"rmq": sample(100)}]))[0]
    assert (row.spread, row.noise) == (None, [])


def test_a_quiet_machine_and_equal_rounds_are_no_noise() -> None:
    """Else everybody learns to overlook the mark."""
    assert all(row.noise == [] for row in books.entry_rows(SEND, pairs((100, 50), (101, 50), (99, 50))))


@pytest.mark.parametrize(
    ("more", "load_average", "reason"),
    [
        ({"steal_pct": 2.5}, 0.0, "steal 2.5 %"),
        ({"others_pct": 40.0}, 0.0, "others used 40 % of a core"),
        ({"drained": 1.0}, 0.0, "the backlog ended early"),
        ({"errors": 2.0, "errors: refused": 2.0}, 0.0, "4 errors, one of them: refused"),
        ({"recv_errors.errors": 1.0, "errors: gone": 1.0}, 0.0, "2 errors, one of them: gone"),
        ({}, 1.5, "load average 1.5 at the start"),
    ],
)
def test_what_disturbs_a_round_is_said_of_all_its_figures(
    more: dict[str, float], load_average: float, reason: str
) -> None:
    """It could have changed any of them; nothing is refused."""
    entry = pairs((100, 50), (100, 50), **more)
    entry.load_average = load_average
    assert [row.noise for row in books.entry_rows(SEND, entry)] == [[reason]] * len(SEND.figures)


@pytest.mark.parametrize(
    ("entry", "note"),
    [
        (Entry(0.0, not_served="rmq says 50100"), "not served: rmq says 50100"),
        (Entry(0.0, failed="no route"), "failed: no route"),
        (Entry(0.0), "not measured"),
    ],
)
def test_a_load_without_numbers_says_why(entry: Entry, note: str) -> None:
    """In its own line of the table."""
    assert [row.note for row in books.entry_rows(SEND, entry)] == [note]


def test_a_file_is_whole_and_has_the_summary(tmp_path: Path) -> None:
    """What is read back is what was written; nothing else is in the folder."""
    kept = books.find(book(), tmp_path)
    kept.book.pairs["send-b1"] = pairs((100, 50))
    kept.save()
    assert [path.name for path in tmp_path.iterdir()] == ["2026-01-02-abc.json"]
    read = msgspec.json.decode(kept.path.read_bytes(), type=books.Book)
    assert read.pairs == kept.book.pairs
    first = read.summary[0]
    assert (first.load, first.figure, first.ratio) == ("send-b1", "messages", 2.0)


def test_the_file_of_the_same_code_machine_and_settings_is_continued(tmp_path: Path) -> None:
    """On another day too; the newest, if there are several."""
    first = books.find(book(), tmp_path)
    first.book.pairs["send-b1"] = pairs((100, 50))
    first.save()
    later = book()
    later.date = "2026-03-04"
    found = books.find(later, tmp_path)
    assert found.path == first.path
    assert found.book.pairs == first.book.pairs


@pytest.mark.parametrize("other", [book(source="s2"), book(seconds=1.0)])
def test_what_was_measured_otherwise_stays_as_it_is(tmp_path: Path, other: books.Book) -> None:
    """The new file goes beside it."""
    first = books.find(book(), tmp_path)
    first.save()
    assert books.find(other, tmp_path).path == tmp_path / "2026-01-02-abc-2.json"


def test_files_that_cannot_be_read_are_left_alone(tmp_path: Path) -> None:
    """They may be another version's."""
    (tmp_path / "2026-01-02-abc.json").write_text('{"format": 0}')
    assert books.find(book(), tmp_path).path == tmp_path / "2026-01-02-abc-2.json"


def test_an_entry_is_resumed_with_the_worse_load_average() -> None:
    """And without the failure that ended it."""
    old = Entry(0.7, [{"rmq": sample(1)}], failed="lost")
    entries = {"both": old}
    entry = books.entry_for(entries, "both", 0.2, resume=True)
    assert entry == Entry(0.7, old.rounds)
    assert entries["both"] is entry
    assert books.entry_for(entries, "both", 0.2, resume=False) == Entry(0.2)
