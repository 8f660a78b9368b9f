"""Metrics as text: Prometheus' exposition format 0.0.4. Owns names' layout and escaping; keeps no number itself.

    # HELP rocketmq_messages_in_total Messages stored.
    # TYPE rocketmq_messages_in_total counter
    rocketmq_messages_in_total{cluster="c",topic="orders",message_type="normal"} 17

Whoever counts keeps plain integers, and writes them into an Exposition when somebody asks (a Source). docs/metrics.md
lists all that there are; a test holds it and the output together.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Literal, TypeAlias

from rmq_store.histogram import Histogram

__all__ = ["Exposition", "Family", "Histogram", "Kind", "Source", "flag"]

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

_SHARED_PREFIX = "rocketmq_"  # RIP-46's names carry its base labels; rmq_ and process_ ones are told by their target
_SPECIAL = re.compile(r'[\\"\n]')
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


class Family:
    """One metric's samples. `labels` names what each sample is told apart by."""

    def __init__(self, name: str, kind: Kind, text: str, labels: tuple[str, ...], base: Mapping[str, str]) -> None:
        self.name = name
        self.kind = kind
        self.labels = labels
        self._base = [f'{key}="{_escape(value)}"' for key, value in base.items()]
        help_text = text.replace("\\", r"\\").replace("\n", r"\n")
        self._lines = [f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"]

    def add(self, value: float, *values: str) -> None:
        """One sample; `values` in the order of `labels`."""
        self._lines.append(f"{self.name}{self._braces(self._pairs(values))} {_number(value)}\n")

    def add_histogram(self, histogram: Histogram, *values: str) -> None:
        """Its ranges, each with all below it counted in, sum and count."""
        pairs = self._pairs(values)
        bounds = [*map(_number, histogram.bounds), "+Inf"]
        for bound, count in zip(bounds, accumulate(histogram.counts), strict=True):
            braces = self._braces([*pairs, f'le="{bound}"'])
            self._lines.append(f"{self.name}_bucket{braces} {count}\n")
        braces = self._braces(pairs)
        self._lines.append(f"{self.name}_sum{braces} {_number(histogram.total)}\n")
        self._lines.append(f"{self.name}_count{braces} {sum(histogram.counts)}\n")

    def text(self) -> str:
        """HELP and TYPE, then the samples in the order in which they came."""
        return "".join(self._lines)

    def _pairs(self, values: tuple[str, ...]) -> list[str]:
        own = [f'{key}="{_escape(value)}"' for key, value in zip(self.labels, values, strict=True)]
        return self._base + own

    @staticmethod
    def _braces(pairs: list[str]) -> str:
        return f"{{{','.join(pairs)}}}" if pairs else ""


class Exposition:
    """One answer to a scrape. `base`: labels of every metric that has RocketMQ's own name."""

    def __init__(self, base: Mapping[str, str]) -> None:
        self._base = base
        self.families: dict[str, Family] = {}

    def family(self, name: str, kind: Kind, text: str, *labels: str) -> Family:
        """A new one; each is made in one place, and there too when it has no sample."""
        assert name not in self.families
        base = self._base if name.startswith(_SHARED_PREFIX) else {}
        family = self.families[name] = Family(name, kind, text, labels, base)
        return family

    def value(self, name: str, kind: Kind, text: str, value: float) -> None:
        """A metric that is one number."""
        self.family(name, kind, text).add(value)

    def text(self) -> str:
        """All of it, in the order in which the families were made."""
        return "".join(family.text() for family in self.families.values())


Source: TypeAlias = Callable[[Exposition], Iterator[None]]
"""Writes what it knows; each step of the iterator is a bounded piece of work."""


def flag(value: bool) -> str:
    """A truth value as a label has it."""
    return "true" if value else "false"


def _escape(value: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], value) if _SPECIAL.search(value) else value


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
