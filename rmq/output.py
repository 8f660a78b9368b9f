"""What commands print: tables and lines for people, one JSON document for programs.

On a terminal tables are rich's and long work shows a bar; elsewhere text is plain and aligned, columns two spaces
apart, and there is no bar. Promises that nothing that came from elsewhere (bodies, keys, client ids) can steer a
terminal: control characters are shown escaped. Knows nothing of servers and stores.
"""

import base64
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeAlias

import click

Cell: TypeAlias = str | int
BODY_CHARS_SHOWN = 80
_STEPS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))
_UNITS = ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)


def document(content: object) -> None:
    """Prints one JSON document; keys stay in the order given."""
    click.echo(json.dumps(content, ensure_ascii=False, indent=2))


def document_line(content: object) -> None:
    """Prints a JSON document on a line of its own, at once: for what has no end."""
    click.echo(json.dumps(content, ensure_ascii=False))
    sys.stdout.flush()


def line(text: str = "") -> None:
    """Prints one line, whatever it holds."""
    click.echo(safe(text))


def note(text: str) -> None:
    """Says something beside the output, on standard error."""
    click.echo(safe(text), err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Prints rows under their columns; numbers go to the right. `rows` have one cell a column."""
    if on_terminal():
        _rich_table(columns, rows)
    else:
        _plain_table(columns, rows)


def on_terminal() -> bool:
    """Whether a person reads standard output as it comes."""
    return sys.stdout.isatty()


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    texts = [list(columns), *([safe(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    to_right = [_is_numeric(rows, i) for i in range(len(columns))]
    for row in texts:
        cells = (t.rjust(w) if right else t.ljust(w) for t, w, right in zip(row, widths, to_right, strict=True))
        click.echo("  ".join(cells).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if _is_numeric(rows, index) else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(safe(str(cell))) for cell in row))
    Console().print(made)


def _is_numeric(rows: Sequence[Sequence[Cell]], index: int) -> bool:
    return bool(rows) and all(isinstance(row[index], int) for row in rows)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar while the block runs, on a terminal only; the function that it gives takes how much of `total` is done."""
    if not sys.stderr.isatty() or not total:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def safe(text: str) -> str:
    """`text` with its control characters escaped as Python writes them; surrogates too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def as_text(body: bytes) -> str | None:
    """The text that a body is, None where it is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def body_fields(body: bytes) -> dict[str, object]:
    """A body in JSON: as text where it is UTF-8, else in base64, and which of both."""
    text = as_text(body)
    if text is not None:
        return {"body": text, "body_base64": False}
    return {"body": base64.b64encode(body).decode("ascii"), "body_base64": True}


def body_shown(body: bytes, chars_max: int = BODY_CHARS_SHOWN) -> str:
    """A body on one line, cut at `chars_max` characters."""
    text = as_text(body)
    if text is None:
        return f"({len(body)} bytes, not text)"
    escaped = safe(text[: chars_max + 1])
    return escaped if len(escaped) <= chars_max else f"{escaped[: chars_max - 3]}..."


def moment(ms: int) -> str:
    """Milliseconds since 1970 as local time with its zone; empty for 0, which is no moment."""
    if not ms:
        return ""
    try:
        return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def duration(ms: int) -> str:
    """Milliseconds in their two largest units: 850 ms, 12.5 s, 3 m 20 s, 2 h 5 m."""
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{round(ms / 1000, 1):g} s"
    for (unit, step), (smaller, below) in itertools.pairwise(_STEPS):
        if ms >= step:
            rest = ms % step // below
            return f"{ms // step} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError("a minute is the smallest step")


def size(count: int) -> str:
    """Bytes in the largest unit that leaves a whole number before the point: 512 B, 1.5 MiB."""
    for unit, step in _UNITS:
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"
