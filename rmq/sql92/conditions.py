"""The parts of a SQL92 expression, each compiled to a closure over a message's properties.

Owns what each operator means, with three-valued logic (None is unknown), and which operands it takes. Both are
Apache's (rocketmq-filter 5.5.0, a child of ActiveMQ's selectors), with all its oddities: see docs/decisions/0008.
Knows no text and no grammar: rmq/sql92/grammar.py calls `Builder` bottom up.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias

from rmq.sql92.values import INTEGER_MAX, LONG_MAX, IncomparableError, Long, Value, order, order_numbers

Properties: TypeAlias = Mapping[str, str]
Run: TypeAlias = Callable[[Properties], Value | None]
Search: TypeAlias = Callable[[str, str], bool]


class WrongError(Exception):
    """The expression makes no sense: `at` is the index of the character where, `text` says why."""

    def __init__(self, at: int, text: str) -> None:
        super().__init__(text)
        self.at = at
        self.text = text


class Sort(Enum):
    """What a part may be used for."""

    PROPERTY = "property"
    CONSTANT = "constant"
    CONDITION = "condition"
    NEGATED = "negated value"


class Part(NamedTuple):
    """`run` gives its value for a message's properties; `constant` only where it is one; `depth` counts closures."""

    sort: Sort
    at: int
    run: Run
    constant: Value | None = None
    depth: int = 1

    @property
    def is_truth(self) -> bool:
        """TRUE, FALSE or NULL, or a condition."""
        if self.sort is Sort.CONSTANT:
            return self.constant is None or isinstance(self.constant, bool)
        return self.sort is Sort.CONDITION


class Condition:
    """A whole expression. Two of one text are equal, whenever they were compiled."""

    __slots__ = ("_run", "text")

    def __init__(self, text: str, part: Part) -> None:
        self.text = text
        self._run = part.run

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def holds(self, properties: Properties) -> bool:
        """Only TRUE does: a message for which it is unknown, or that has no number where one is needed, stays out."""
        try:
            return self._run(properties) is True
        except IncomparableError:
            return False


def condition(part: Part) -> Part:
    """The part where a condition has to be. A property is text and so never TRUE: FALSE, or unknown if missing."""
    if part.is_truth:
        return part
    if part.sort is not Sort.PROPERTY:
        raise WrongError(part.at, "this is a value and not a condition; compare it with something")
    run = part.run
    return _condition(lambda properties: None if run(properties) is None else False, part)


def _condition(run: Run, *parts: Part) -> Part:
    return Part(Sort.CONDITION, parts[0].at, run, depth=1 + max(part.depth for part in parts))


# -- values ------------------------------------------------------------------------------------------------------------


def prop(name: str, at: int) -> Part:
    """A property of the message, or unknown."""
    return Part(Sort.PROPERTY, at, lambda properties: properties.get(name))


def constant(value: Value | None, at: int) -> Part:
    """The same for every message."""
    return Part(Sort.CONSTANT, at, lambda _: value, value)


def integer(text: str, at: int) -> Part:
    """Digits, maybe with an L behind; up to 2^63-1, and what fits into 32 bits is an Integer all the same."""
    number = int(text.rstrip("lL")[:20])
    if number > LONG_MAX:
        raise WrongError(at, f"{text[:40]} is greater than {LONG_MAX}")
    return constant(number if number <= INTEGER_MAX else Long(number), at)


def decimal(text: str, at: int) -> Part:
    """A Double. Beyond its range it is refused, not rounded to 0 or infinity."""
    number = float(text)
    if number == float("inf") or (number == 0 and text.lower().partition("e")[0].strip("0.")):
        raise WrongError(at, f"{text[:40]} is out of the range of a double")
    return constant(number, at)


def negate(part: Part) -> Part:
    """A number negated; of all else the value is unknown. No longer a constant: BETWEEN does not check it."""
    value, run = part.constant, part.run
    if isinstance(value, int | float) and not isinstance(value, bool):
        negative = Long(-value) if isinstance(value, Long) else -value
        return Part(Sort.NEGATED, part.at, lambda _: negative, negative)

    def unknown(properties: Properties) -> None:
        run(properties)  # it may be IncomparableError

    return Part(Sort.NEGATED, part.at, unknown, depth=part.depth + 1)


# -- logic -------------------------------------------------------------------------------------------------------------


def either(parts: Sequence[Part]) -> Part:
    """OR: TRUE at the first that is, else unknown if one is."""
    return _joined(parts, decisive=True)


def all_of(parts: Sequence[Part]) -> Part:
    """AND: FALSE at the first that is, else unknown if one is."""
    return _joined(parts, decisive=False)


def _joined(parts: Sequence[Part], *, decisive: bool) -> Part:
    conditions = [condition(part) for part in parts]
    runs = [part.run for part in conditions]

    def joined(properties: Properties) -> bool | None:
        result: bool | None = not decisive
        for run in runs:
            value = run(properties)
            if value is decisive:
                return decisive
            if value is None:
                result = None
        return result

    return _condition(joined, *conditions)


def invert(part: Part) -> Part:
    """NOT: unknown stays unknown."""
    found = condition(part)
    run = found.run
    return _condition(lambda properties: None if (value := run(properties)) is None else not value, found)


# -- comparisons -------------------------------------------------------------------------------------------------------


def equal(left: Part, right: Part) -> Part:
    """Equal. Unknown if the left is; FALSE if only the right is; TRUE if both are unknown, as in Apache."""
    for part in (left, right):
        if part.sort is Sort.CONSTANT and part.constant is None:
            raise WrongError(part.at, "NULL cannot be compared; write IS NULL or IS NOT NULL")
    if left.sort is right.sort is Sort.CONSTANT and left.is_truth and not right.is_truth:
        raise WrongError(right.at, "TRUE and FALSE cannot be compared with this")
    a, b = left.run, right.run

    def equals(properties: Properties) -> bool | None:
        x, y = a(properties), b(properties)
        if x is None:
            return True if y is None else None
        return False if y is None else order(x, y) == 0

    return _condition(equals, left, right)


def is_null(part: Part) -> Part:
    """TRUE or FALSE, never unknown."""
    run = part.run
    return _condition(lambda properties: run(properties) is None, part)


def compare(accepts: Callable[[int, int], bool], left: Part, right: Part) -> Part:
    """`accepts` an order, and 0: operator.gt and its like. Unknown if one side is."""
    for part in (left, right):
        if part.is_truth or (part.sort is Sort.CONSTANT and isinstance(part.constant, str)):
            raise WrongError(part.at, "only numbers and properties can be compared by <, <=, >, >= and BETWEEN")
    a, b = left.run, right.run

    def compares(properties: Properties) -> bool | None:
        x = a(properties)
        y = None if x is None else b(properties)
        return None if x is None or y is None else accepts(order_numbers(x, y), 0)

    return _condition(compares, left, right)


def between(value: Part, low: Part, high: Part) -> Part:
    """Both ends belong to it. Two constants have to be in order."""
    lower, upper = compare(operator.ge, value, low), compare(operator.le, value, high)
    first, last = low.constant, high.constant
    constant_ends = low.sort is high.sort is Sort.CONSTANT
    if constant_ends and first is not None and last is not None and order(first, last) > 0:
        raise WrongError(low.at, "BETWEEN needs the smaller value first")
    return all_of((lower, upper))


def not_between(value: Part, low: Part, high: Part) -> Part:
    """Less than the one or greater than the other."""
    return either((compare(operator.lt, value, low), compare(operator.gt, value, high)))


def among(part: Part, texts: frozenset[str], *, wanted: bool) -> Part:
    """IN and NOT IN: unknown where the property is missing."""
    if part.sort is not Sort.PROPERTY:
        raise WrongError(part.at, "only a property can stand before IN; put NOT ( ) around all of it to invert it")
    run = part.run
    return _condition(
        lambda properties: None if (value := run(properties)) is None else (value in texts) is wanted, part
    )


def search(part: Part, found: Search, text: str, *, wanted: bool) -> Part:
    """CONTAINS, STARTSWITH, ENDSWITH, each with NOT: FALSE for all that is no text, and for an empty text."""
    run = part.run
    if not text:
        return _condition(lambda _: False, part)

    def searches(properties: Properties) -> bool:
        value = run(properties)
        return isinstance(value, str) and found(value, text) is wanted

    return _condition(searches, part)
