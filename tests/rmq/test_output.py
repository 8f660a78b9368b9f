"""What commands print: tables, documents, and what is fit to be printed."""

import sys

import pytest

from rmq import output

Captured = pytest.CaptureFixture[str]


def sit_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person reads from now on, 80 columns wide."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_a_plain_table_is_aligned_with_numbers_to_the_right(capsys: Captured) -> None:
    """Two spaces between columns, none at the end of a line."""
    output.table(("NAME", "COUNT", "NOTE"), [("a", 5, "x"), ("long name", 12345, "")])
    assert capsys.readouterr().out == "NAME       COUNT  NOTE\na              5  x\nlong name  12345\n"


def test_a_table_without_rows_is_its_head(capsys: Captured) -> None:
    """Columns and nothing else."""
    output.table(("A", "B"), [])
    assert capsys.readouterr().out == "A  B\n"


def test_on_a_terminal_a_table_is_rich_s(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a cell is taken for markup or for an escape sequence."""
    sit_down(monkeypatch)
    output.table(("NAME", "COUNT"), [("[red]a[/red]", 5), ("\x1b[2J", 6)])
    out = capsys.readouterr().out
    assert "─" in out
    assert "[red]a[/red]" in out
    assert "\\x1b[2J" in out
    assert "\x1b[2J" not in out


def test_on_a_terminal_long_work_shows_a_bar(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, so that the output can still go elsewhere."""
    sit_down(monkeypatch)
    with output.progress("reading", 10) as report:
        report(5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading" in err


def test_elsewhere_there_is_no_bar(capsys: Captured) -> None:
    """Not a byte."""
    with output.progress("reading", 10) as report:
        report(5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("a\tb\nc\r", "a\\tb\\nc\\r"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\u202eevil", "\\u202eevil"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    """The right-to-left mark and lone surrogates too."""
    assert output.safe(text) == shown


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (12_540, "12.5 s"),
        (59_999, "60 s"),
        (60_000, "1 m"),
        (200_000, "3 m 20 s"),
        (7_500_000, "2 h 5 m"),
        (90_000_000, "1 d 1 h"),
        (86_400_000 * 400, "400 d"),
    ],
)
def test_durations(ms: int, text: str) -> None:
    """The two largest units."""
    assert output.duration(ms) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    """The largest unit."""
    assert output.size(count) == text


def test_moments() -> None:
    """0 is none, and what no calendar holds is still shown."""
    assert output.moment(0) == ""
    assert output.moment(1_790_000_000_000).startswith("2026-09-2")
    assert output.moment(10**18) == f"{10**18} ms"


def test_a_body_is_cut_to_its_line() -> None:
    """Escapes count as they are shown."""
    assert output.body_shown(b"x" * 80) == "x" * 80
    assert output.body_shown(b"x" * 81) == "x" * 77 + "..."
    assert output.body_shown(b"\x00" * 30) == "\\x00" * 19 + "\\..."
