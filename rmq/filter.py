"""Which messages a subscription wants. Tags: `*`, or `a || b`: by hash in the queue entry, exactly in the record."""

from collections.abc import Mapping

import msgspec

from rmq.errors import ClientError, Code
from rmq.message import TAGS


def java_hash(text: str) -> int:
    """Java's String.hashCode: over UTF-16 code units, wrapped to a signed 32-bit number (a queue entry's tagsCode)."""
    units = text.encode("utf-16-be", "surrogatepass")
    h = 0
    for i in range(0, len(units), 2):
        h = (31 * h + (units[i] << 8) + units[i + 1]) & 0xFFFFFFFF
    return h - 0x100000000 if h >= 0x80000000 else h


class Filter(msgspec.Struct, frozen=True):
    """A compiled subscription. `tags` None: every message."""

    expression: str = "*"
    tags: frozenset[str] | None = None
    hashes: frozenset[int] = frozenset()

    def may_match(self, tags_code: int) -> bool:
        """By the queue entry alone; a hash may collide, `matches` decides."""
        return self.tags is None or tags_code in self.hashes

    def matches(self, properties: Mapping[str, str]) -> bool:
        """By the record: exact."""
        return self.tags is None or properties.get(TAGS) in self.tags


ALL = Filter()


def by_tag(expression: str) -> Filter:
    """`*` or empty: all; else tags separated by `||`. Raises ILLEGAL_FILTER_EXPRESSION where there is none."""
    if expression.strip() in ("", "*"):
        return ALL
    tags = frozenset(t for t in (part.strip() for part in expression.split("||")) if t)
    if not tags:
        raise ClientError(
            Code.ILLEGAL_FILTER_EXPRESSION,
            f"no tag in the filter expression {expression!r}; write 'tagA || tagB', or '*'",
        )
    return Filter(expression, tags, frozenset(map(java_hash, tags)))


def by_sql(expression: str) -> Filter:
    """SQL92 comes with the message types; until then it is refused, not ignored."""
    raise ClientError(
        Code.NOT_IMPLEMENTED, f"SQL92 filters are not served yet (expression {expression[:80]!r}); subscribe by tag"
    )
