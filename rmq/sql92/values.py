"""Java's values, as far as SQL92 filters need them: which numbers a text is, and what is greater.

Owns how a property (always text) meets a number, a truth value or another text. The rules are those of Apache's
ComparisonExpression (5.5.0), held to it by tests/golden/sql92.json. Knows no expressions.

    Java      here     a text becomes one
    Integer   int      [+-]digits, -2^31 to 2^31-1
    Long      Long     [+-]digits, -2^63 to 2^63-1
    Double    float    as Double.valueOf: decimal or hexadecimal, Infinity, NaN, an f or d behind, white space around
    Boolean   bool     "true" in any case is TRUE, all else FALSE
    String    str
"""

import math
import re
from typing import TypeAlias

INTEGER_MIN, INTEGER_MAX = -(1 << 31), (1 << 31) - 1
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1
_WHOLE = re.compile(r"[+-]?\d+")  # any decimal digits of Unicode, as Character.digit
_DECIMAL = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[fFdD]?")
_HEXADECIMAL = re.compile(r"([+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+)[fFdD]?")
_NAMED = re.compile(r"([+-]?)(NaN|Infinity)")
_BLANKS = "".join(map(chr, range(33)))  # what String.trim takes away


class Long(int):
    """A whole number that Java would hold in 64 bits; a plain int stands for 32."""


Value: TypeAlias = bool | int | float | str


class IncomparableError(Exception):
    """Apache throws here: the message is not delivered, whatever the rest of the expression says."""


def order(left: Value, right: Value) -> int:
    """Negative, 0, positive, as compareTo. What is never equal and has no order is -1. Raises IncomparableError."""
    if type(left) is not type(right):
        pair = _alike(left, right)
        if pair is None:
            return -1
        left, right = pair
    if isinstance(left, float) and isinstance(right, float):
        return _order_doubles(left, right)
    if isinstance(left, str) or isinstance(right, str):
        return -1 if left != right else 0  # texts are only ever asked whether they are equal
    return (left > right) - (left < right)


def order_numbers(left: Value, right: Value) -> int:
    """For < and its like: two texts are compared as Doubles. Raises IncomparableError."""
    if isinstance(left, str) and isinstance(right, str):
        return _order_doubles(_double(left), _double(right))
    return order(left, right)


def _alike(left: Value, right: Value) -> tuple[Value, Value] | None:
    if isinstance(left, str):
        return _as(right, left), right
    if isinstance(left, bool):
        if isinstance(right, str):
            raise IncomparableError("a truth value on the left of a text")  # a ClassCastException there
        return None
    if isinstance(right, str):
        return left, _as(left, right)
    if isinstance(right, bool):
        return None
    if isinstance(left, float) or isinstance(right, float):
        return float(left), float(right)
    return left, right


def _as(other: Value, text: str) -> Value:
    """The text as what stands on the other side."""
    match other:
        case bool():
            return text.lower() == "true"
        case float():
            return _double(text)
        case Long():
            return _whole(text, LONG_MIN, LONG_MAX)
        case _:
            return _whole(text, INTEGER_MIN, INTEGER_MAX)


def _whole(text: str, low: int, high: int) -> int:
    if len(text) <= 64 and _WHOLE.fullmatch(text) and max(text) < "\U00010000" and low <= (number := int(text)) <= high:
        return number
    raise IncomparableError(f"{text!r} is no whole number from {low} to {high}")


def _double(text: str) -> float:
    stripped = text.strip(_BLANKS)
    if found := _DECIMAL.fullmatch(stripped):
        return float(found[1])
    if found := _HEXADECIMAL.fullmatch(stripped):
        return _hexadecimal(found[1])
    if found := _NAMED.fullmatch(stripped):
        return float(found[0])
    raise IncomparableError(f"{text!r} is no number")


def _hexadecimal(text: str) -> float:
    try:
        return float.fromhex(text)
    except OverflowError:
        return -math.inf if text.startswith("-") else math.inf


def _order_doubles(left: float, right: float) -> int:
    """Double.compareTo: -0.0 is less than 0.0, NaN is greater than all and equal to itself."""
    a, b = (math.isnan(left), left), (math.isnan(right), right)
    if a[0] or b[0]:
        return a[0] - b[0]
    if left == right == 0:
        return int(math.copysign(1, left) - math.copysign(1, right))
    return (left > right) - (left < right)
