"""Metrics as text: Prometheus' exposition format 0.0.4. Owns names' layout and escaping; keeps no number itself.

    # HELP rocketmq_messages_in_total Messages stored.
    # TYPE rocketmq_messages_in_total counter
    rocketmq_messages_in_total{cluster="c",topic="orders",message_type="normal"} 17

Whoever counts keeps plain integers, and writes them into an Exposition when somebody asks (a Source). docs/metrics.md
lists all that there are; a test holds it and the output together.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

from rmq_store.histogram import Histogram

__all__ = ["Exposition", "Family", "Histogram", "Kind", "Source", "flag"]

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

_SHARED_PREFIX = "rocketmq_"  # RIP-46's names carry its base labels; rmq_ and process_ ones are told by their target
_CHUNK_LINES = 500
_SPECIAL = re.compile(r'[\\"\n]')
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


class Family:
    """One metric's samples. `labels` names what each sample is told apart by."""

    def __init__(self, name: str, kind: Kind, text: str, labels: tuple[str, ...], quoted: dict[str, str]) -> None:
        self.name = name
        self.kind = kind
        self.labels = labels
        self._base: list[str] = []
        self._keys = [f'{label}="' for label in labels]
        self._quoted = quoted
        help_text = text.replace("\\", r"\\").replace("\n", r"\n")
        self._lines = [f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"]
        self._chunks: list[bytes] = []

    def share(self, base: Mapping[str, str]) -> None:
        """Every sample gets these labels, too."""
        self._base = [f'{key}="{self._quote(value)}' for key, value in base.items()]

    def add(self, value: float, *values: str) -> None:
        """One sample; `values` in the order of `labels`."""
        self._write(self.name, self._pairs(values), _number(value))

    def add_histogram(self, histogram: Histogram, *values: str) -> None:
        """Its ranges, each with all below it counted in, sum and count."""
        pairs = self._pairs(values)
        comma = "," if pairs else ""
        count = 0
        for bound, own in zip((*histogram.bounds, None), histogram.counts, strict=True):
            count += own
            limit = "+Inf" if bound is None else _number(bound)
            self._write(f"{self.name}_bucket", f'{pairs}{comma}le="{limit}"', str(count))
        self._write(f"{self.name}_sum", pairs, _number(histogram.total))
        self._write(f"{self.name}_count", pairs, str(count))

    def chunks(self) -> list[bytes]:
        """HELP and TYPE, then the samples in the order in which they came."""
        self._pack()
        return self._chunks

    def _pairs(self, values: tuple[str, ...]) -> str:
        quoted = self._quoted
        own = [key + (quoted.get(value) or self._quote(value)) for key, value in zip(self._keys, values, strict=True)]
        return ",".join(self._base + own)

    def _quote(self, value: str) -> str:
        """The same few values come again and again."""
        text = self._quoted[value] = _SPECIAL.sub(lambda found: _ESCAPES[found[0]], value) + '"'
        return text

    def _write(self, name: str, pairs: str, value: str) -> None:
        self._lines.append(f"{name}{{{pairs}}} {value}\n" if pairs else f"{name} {value}\n")
        if len(self._lines) >= _CHUNK_LINES:
            self._pack()

    def _pack(self) -> None:
        """In pieces, so that no step has to encode it all."""
        if self._lines:
            self._chunks.append("".join(self._lines).encode())
            self._lines.clear()


class Exposition:
    """One answer to a scrape. `base`: labels of every metric that has RocketMQ's own name."""

    def __init__(self, base: Mapping[str, str]) -> None:
        self._base = base
        self._quoted: dict[str, str] = {}
        self.families: dict[str, Family] = {}

    def family(self, name: str, kind: Kind, text: str, *labels: str) -> Family:
        """A new one; each is made in one place, and there too when it has no sample."""
        assert name not in self.families
        family = Family(name, kind, text, labels, self._quoted)
        if name.startswith(_SHARED_PREFIX):
            family.share(self._base)
        self.families[name] = family
        return family

    def value(self, name: str, kind: Kind, text: str, value: float) -> None:
        """A metric that is one number."""
        self.family(name, kind, text).add(value)

    def encode(self) -> bytes:
        """All of it, in the order in which the families were made."""
        return b"".join(chunk for family in self.families.values() for chunk in family.chunks())


Source: TypeAlias = Callable[[Exposition], Iterator[None]]
"""Writes what it knows; each step of the iterator is a bounded piece of work."""


def flag(value: bool) -> str:
    """A truth value as a label has it."""
    return "true" if value else "false"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
