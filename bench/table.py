"""The table as text: plain columns, so that it can be pasted anywhere."""

from collections.abc import Sequence

from bench.book import Line, Row

NOISY = "~"


def render(rows: Sequence[Row]) -> str:
    """One line a figure; below, once for each load, why lines marked ~ may be noise."""
    paired = any(row.ratio is not None for row in rows)
    heads = ["load", "figure", "unit", "rmq", *(["Apache", "ratio"] if paired else []), "spread", ""]
    if not paired:
        heads.append("goal")
    lines = [heads]
    last = ""
    for row in rows:
        name = row.load if row.load != last else ""
        last = row.load
        lines.append([row.load, row.note] if row.note else cells(row, name, paired))
    return "\n".join([*align(lines), *remarks(rows)])


def cells(row: Row, name: str, paired: bool) -> list[str]:
    """The columns of one line."""
    spread = "" if row.spread is None else f"{row.spread:.0%}"
    values = [number(row.values.get("rmq"))]
    if paired:
        values += [number(row.values.get("apache")), "" if row.ratio is None else f"{row.ratio:.2f}x"]
    last = [] if paired else [row.goal]
    return [name, row.figure, row.unit, *values, spread, NOISY if row.noise else "", *last]


def number(value: float | None) -> str:
    """Three digits that matter, thousands apart."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def align(lines: Sequence[Sequence[str]]) -> list[str]:
    """The first three columns to the left, the numbers to the right; a note runs over its columns."""
    whole = [line for line in lines if len(line) > 2]
    widths = [max(len(line[column]) for line in whole) for column in range(len(whole[0]))]
    widths[0] = max(len(line[0]) for line in lines)
    texts = []
    for line in lines:
        padded = [
            cell.ljust(width) if column < 3 or len(line) == 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        texts.append("  ".join(padded).rstrip())
    return texts


def remarks(rows: Sequence[Row]) -> list[str]:
    """Reasons, each with the figures that it is about; what is said against all figures of a load is said once."""
    texts: list[str] = []
    for name in dict.fromkeys(row.load for row in rows):
        mine = [row for row in rows if row.load == name and not row.note]
        for reason in dict.fromkeys(reason for row in mine for reason in row.noise):
            hit = [row.figure for row in mine if reason in row.noise]
            texts.append(f"{NOISY} {name}{'' if len(hit) == len(mine) else ' ' + ', '.join(hit)}: {reason}")
    return texts


def render_lines(lines: Sequence[Line]) -> str:
    """The in-process figures."""
    heads = [["what", "unit", "goal", "value"]]
    return "\n".join(align([*heads, *([line.what, line.unit, line.goal, number(line.value)] for line in lines)]))
