"""Which messages a subscription wants: all, those with certain tags, or those for which a SQL92 expression is TRUE.

Tags (`*`, or `a || b`) are looked for by hash in the queue entry, then exactly in the record; SQL92 needs the record.
Owns what clients may write, its limits, and the compiled filters that are kept. The expressions: rmq/sql92.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.message import TAGS

if TYPE_CHECKING:
    from rmq.sql92.conditions import Condition


def java_hash(text: str) -> int:
    """Java's String.hashCode: over UTF-16 code units, wrapped to a signed 32-bit number (a queue entry's tagsCode)."""
    units = text.encode("utf-16-be", "surrogatepass")
    h = 0
    for i in range(0, len(units), 2):
        h = (31 * h + (units[i] << 8) + units[i + 1]) & 0xFFFFFFFF
    return h - 0x100000000 if h >= 0x80000000 else h


class Filter(msgspec.Struct, frozen=True):
    """A compiled subscription. `tags` None: every message, of which `condition` may leave some out."""

    expression: str = "*"
    tags: frozenset[str] | None = None
    hashes: frozenset[int] = frozenset()
    condition: "Condition | None" = None

    @property
    def is_all(self) -> bool:
        """Nothing is left out."""
        return self.tags is None and self.condition is None

    def may_match(self, tags_code: int) -> bool:
        """By the queue entry alone; a hash may collide, `matches` decides."""
        return self.tags is None or tags_code in self.hashes

    def matches(self, properties: Mapping[str, str]) -> bool:
        """By the record: exact."""
        if self.condition is not None:
            return self.condition.holds(properties)
        return self.tags is None or properties.get(TAGS) in self.tags


ALL = Filter()
_TOGETHER = 8  # filters of the greatest length that one client may have at once


def reading_cost(size_bytes: int) -> int:
    """What it costs to read a record in vain, in queue entries that are passed over by their hash: a scan that is
    bounded counts with it. Measured: an entry 1.2 us; a record of 1 KiB with properties and SQL92 25 us, 2 us a KiB.
    """
    return 4 + (size_bytes >> 12)


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


def by_sql(expression: str, depth_max: int) -> Filter:
    """Compiled. Raises ILLEGAL_FILTER_EXPRESSION, with the position of what is wrong."""
    from rmq.sql92 import grammar  # 0.1 s that a server without SQL92 filters never pays
    from rmq.sql92.conditions import Condition, WrongError

    try:
        part = grammar.parse(expression)
        if part.depth > depth_max:
            raise WrongError(part.at, f"it nests {part.depth} conditions, at most {depth_max} are allowed")
    except WrongError as wrong:
        where = f"SQL92 filter, character {wrong.at + 1} of {len(expression)}"
        raise ClientError(Code.ILLEGAL_FILTER_EXPRESSION, f"{where}: {wrong.text}") from None
    return Filter(expression, condition=Condition(expression, part))


class Filters:
    """SQL92 filters within the limits of the configuration. Keeps the last ones used, the refused among them."""

    def __init__(self, config: Config) -> None:
        self._chars_max = config.sql_chars_max
        self._depth_max = config.sql_depth_max
        self._kept_chars_max = config.sql_kept_chars_max
        self._kept: OrderedDict[str, Filter | ClientError] = OrderedDict()
        self._kept_chars = 0

    def by_sql(self, expression: str) -> Filter:
        """Raises ILLEGAL_FILTER_EXPRESSION."""
        if len(expression) > self._chars_max:
            text = f"the SQL92 filter is longer than {self._chars_max} characters, it has {len(expression)}"
            raise ClientError(Code.ILLEGAL_FILTER_EXPRESSION, text)
        found = self._kept.get(expression)
        if found is None:
            found = self._compile(expression)
            self._keep(expression, found)
        else:
            self._kept.move_to_end(expression)
        if isinstance(found, ClientError):
            raise ClientError(found.code, found.text)
        return found

    def check_total(self, chars: int) -> None:
        """Of all SQL92 filters in one request: they are compiled in one turn. Raises ILLEGAL_FILTER_EXPRESSION."""
        chars_max = _TOGETHER * self._chars_max
        if chars > chars_max:
            text = f"the SQL92 filters of one client have at most {chars_max} characters together, these have {chars}"
            raise ClientError(Code.ILLEGAL_FILTER_EXPRESSION, text)

    def _compile(self, expression: str) -> Filter | ClientError:
        try:
            return by_sql(expression, self._depth_max)
        except ClientError as error:
            return error

    def _keep(self, expression: str, found: Filter | ClientError) -> None:
        self._kept[expression] = found
        self._kept_chars += len(expression)
        while self._kept_chars > self._kept_chars_max:
            gone, _ = self._kept.popitem(last=False)
            self._kept_chars -= len(gone)
