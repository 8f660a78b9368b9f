"""Values on the command line beyond click's own: a moment, a duration, a queue's offset, a property.

Each function turns a word into its value, for click's `type=`, and raises click.BadParameter that says how to write it.
"""

import math
import re
from datetime import datetime

import click

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)
_YEAR_10000_MS = 253_402_300_800_000


def moment(text: str) -> int:
    """Milliseconds since 1970: written so, or as ISO 8601, in local time unless it names a zone."""
    found = _moment_ms(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time, write 2026-01-31T12:00:00 or milliseconds since 1970")
    return found


def _moment_ms(text: str) -> int | None:
    if _WHOLE.fullmatch(text):
        return int(text) if int(text) < _YEAR_10000_MS else None
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None


def duration(text: str) -> int:
    """Milliseconds: a whole number and its unit, 500ms, 10s, 5m, 2h, 1d."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration, write 500ms, 10s, 5m, 2h or 1d")
    return int(found[1]) * _UNITS_MS[found[2]]


def durations(text: str) -> tuple[int, ...]:
    """Several, with commas between them."""
    return tuple(duration(part) for part in text.split(","))


def backoff(text: str) -> tuple[int, int, float]:
    """INITIAL,MAX[,MULTIPLIER]: two durations and a number, 2 where it is left out."""
    initial, comma, rest = text.partition(",")
    most, _, factor = rest.partition(",")
    try:
        multiplier = float(factor or 2)
    except ValueError:
        multiplier = math.nan
    if not comma or math.isnan(multiplier):
        raise click.BadParameter(f"{text!r} is no back-off, write 5s,2h or 5s,2h,1.5")
    return duration(initial), duration(most), multiplier


def place(text: str) -> str | int:
    """Where to start: begin, end, or a moment in milliseconds."""
    if text in ("begin", "end"):
        return text
    found = _moment_ms(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is neither begin, end nor a time like 2026-01-31T12:00:00")
    return found


def pair(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is no KEY=VALUE")
    return key, value


def queue_offset(text: str) -> tuple[int, int]:
    """QUEUE:OFFSET."""
    queue, _, offset = text.partition(":")
    if not _WHOLE.fullmatch(queue) or not _WHOLE.fullmatch(offset):
        raise click.BadParameter(f"{text!r} is no QUEUE:OFFSET, write 0:17 for offset 17 of queue 0")
    return int(queue), int(offset)
