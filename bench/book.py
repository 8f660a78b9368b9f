"""Result files: bench/results/DATE-COMMIT.json, one for each state of the code measured on one machine in one way.

Owns the files and the arithmetic: medians, ratios, spread, and what is noise. A file is written whole after every
round, so that a run that was stopped goes on where it was. Of a changed checkout the name ends in -changed (git ignores
those).

    alone    load -> entry: rmq by itself, measured anew each time
    pairs    load -> entry: rmq and Apache, interleaved; the next run adds what is missing
    figures  name -> lines: what is measured inside rmq
    summary  the table, for readers that do not want to compute it
"""

import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bench import machine
from bench.driver import ERROR, Sample
from bench.loads import LOADS, Figure, Load
from bench.stand import Settings

RESULTS = machine.ROOT / "bench" / "results"
LOAD_AVERAGE_MAX = 0.5  # of two cores, one for each side: half a process more than us
STEAL_PCT_MAX = 1.0
OTHERS_PCT_MAX = 10.0  # of one core; the kernel writes the page cache back


class Entry(msgspec.Struct):
    """One load. A round is server's name -> sample."""

    load_average: float
    rounds: list[dict[str, Sample]] = []
    not_served: str = ""
    failed: str = ""


class Line(msgspec.Struct):
    """One line of the in-process figures."""

    what: str
    value: float
    unit: str
    goal: str = ""


class Row(msgspec.Struct):
    """One line of the table: medians by server, the median of the pairs' ratios, and why it may be noise.

    `spread` is that of the ratios, or of rmq's values where it is alone: (largest - smallest) / median.
    """

    load: str
    figure: str
    unit: str
    values: dict[str, float]
    ratio: float | None = None
    spread: float | None = None
    noise: list[str] = []
    goal: str = ""
    note: str = ""  # instead of values


class Book(msgspec.Struct):
    """The content of a file."""

    commit: str
    changed: bool
    source: str
    date: str
    machine: dict[str, object]
    settings: Settings
    alone: dict[str, Entry] = {}
    pairs: dict[str, Entry] = {}
    figures: dict[str, list[Line]] = {}
    summary: list[Row] = []

    def continues(self, other: "Book") -> bool:
        """Whether both are of the same code, measured in the same way on the same machine."""
        return (self.commit, self.source, self.machine, self.settings) == (
            other.commit,
            other.source,
            other.machine,
            other.settings,
        )


class Results:
    """A book and its file."""

    def __init__(self, path: Path, book: Book) -> None:
        self.path = path
        self.book = book

    def save(self) -> None:
        """Whole or not at all."""
        self.book.summary = table_rows(self.book)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(self.book), indent=1) + b"\n")
        part.replace(self.path)


def now(settings: Settings) -> Book:
    """An empty book of this checkout, this machine and this day."""
    commit, changed = machine.commit()
    date = time.strftime("%Y-%m-%d")
    return Book(commit, changed, machine.source_hash(), date, machine.describe(), settings)


def find(book: Book, folder: Path = RESULTS) -> Results:
    """The file that `book` continues, the newest if there are several; else a new one, beside what is there."""
    for path in sorted(folder.glob(f"*-{book.commit[:12]}*.json"), reverse=True):
        if (known := read(path)) is not None and known.continues(book):
            return Results(path, known)
    name = f"{book.date}-{book.commit[:12]}{'-changed' if book.changed else ''}"
    names = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return Results(next(folder / f"{n}.json" for n in names if not (folder / f"{n}.json").exists()), book)


def read(path: Path) -> Book | None:
    """None for a file that is not one of ours, or of another version of this tool."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Book)
    except (msgspec.DecodeError, OSError):
        return None


def entry_for(entries: dict[str, Entry], load: str, load_average: float, *, resume: bool) -> Entry:
    """The load's entry, to be added to; a failure is forgotten, and without `resume` all else too.

    `load_average`: the machine's before this run began.
    """
    old = entries.get(load)
    entry = Entry(load_average)
    if resume and old and old.rounds:
        entry = Entry(max(old.load_average, load_average), old.rounds)
    entries[load] = entry
    return entry


# -- arithmetic ----------------------------------------------------------------------------------------------------


def table_rows(book: Book, only: Iterable[str] | None = None) -> list[Row]:
    """All that the book holds, in the order of the loads; `only` those of these names."""
    names = list(LOADS if only is None else only)
    rows: list[Row] = []
    for entries in (book.pairs, book.alone):
        for name in names:
            if name in entries:
                rows += entry_rows(LOADS[name], entries[name])
    return rows


def entry_rows(load: Load, entry: Entry) -> list[Row]:
    """One line a figure; or one line that says why there is none."""
    if entry.not_served:
        return [Row(load.name, "", "", {}, note=f"not served: {entry.not_served}")]
    if not entry.rounds:
        return [Row(load.name, "", "", {}, note=f"failed: {entry.failed}" if entry.failed else "not measured")]
    general = noise(entry)
    return [figure_row(load, figure, entry.rounds, general) for figure in load.figures]


def figure_row(load: Load, figure: Figure, rounds: Sequence[dict[str, Sample]], general: Sequence[str]) -> Row:
    """`general`: what is said against the whole entry."""
    series = {name: [one[name].get(figure.key, 0.0) for one in rounds] for name in rounds[0]}
    ratios = [a / b for a, b in zip(series["rmq"], series["apache"], strict=True) if b] if "apache" in series else None
    spread = spread_of(series["rmq"] if ratios is None else ratios)
    reasons = list(general)
    if spread is not None and spread > figure.spread_max:
        reasons.append(f"spread {spread:.0%}")
    medians = {name: statistics.median(values) for name, values in series.items()}
    ratio = statistics.median(ratios) if ratios else None
    return Row(load.name, figure.text, figure.unit, medians, ratio, spread, reasons, figure.goal)


def spread_of(values: Sequence[float]) -> float | None:
    """(largest - smallest) / median; None where there are fewer than two, or nothing to compare with."""
    if len(values) < 2 or not statistics.median(values):
        return None
    return (max(values) - min(values)) / statistics.median(values)


def noise(entry: Entry) -> list[str]:
    """What disturbed any measurement of the entry, in words."""
    samples = [sample for one in entry.rounds for sample in one.values()]
    reasons = []
    if entry.load_average > LOAD_AVERAGE_MAX:
        reasons.append(f"load average {entry.load_average:.1f} at the start")
    if (steal := _worst(samples, "steal_pct")) > STEAL_PCT_MAX:
        reasons.append(f"steal {steal:.1f} %")
    if (others := _worst(samples, "others_pct")) > OTHERS_PCT_MAX:
        reasons.append(f"others used {others:.0f} % of a core")
    if errors := sum(sample.get(key, 0.0) for sample in samples for key in ("errors", "recv_errors.errors")):
        said = next((key for sample in samples for key in sample if key.startswith(ERROR)), ERROR).removeprefix(ERROR)
        reasons.append(f"{errors:.0f} errors, one of them: {said}")
    if _worst(samples, "drained"):
        reasons.append("the backlog ended early")
    return reasons


def _worst(samples: Iterable[Sample], key: str) -> float:
    return max((sample.get(key, 0.0) for sample in samples), default=0.0)
