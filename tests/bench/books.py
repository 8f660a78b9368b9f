"""Results to test with: entries of a few rounds with just the numbers that matter."""

from pathlib import Path

from bench.book import Book, Entry, Results
from bench.driver import Sample
from bench.stand import Settings

QUIET = {"steal_pct": 0.0, "others_pct": 1.0}


def sample(rate: float, **more: float) -> Sample:
    """Of a send load."""
    return {"send_per_s": rate, "server_cpu_s_per_100k": 1e6 / rate, **QUIET, **more}


def pairs(*rates: tuple[float, float], **more: float) -> Entry:
    """Rounds of (rmq, Apache)."""
    return Entry(0.1, [{"rmq": sample(ours, **more), "apache": sample(theirs)} for ours, theirs in rates])


def book(commit: str = "abc", source: str = "s1", seconds: float = 10.0) -> Book:
    """Of a machine that does not matter."""
    return Book(commit, False, source, "2026-01-02", {"cores": 2}, Settings(seconds=seconds))


def results(folder: Path) -> Results:
    """A new file."""
    return Results(folder / "r.json", book())
