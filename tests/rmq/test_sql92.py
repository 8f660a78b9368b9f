"""SQL92 filters: what they mean, held to Apache's own answers; where they are wrong; what is kept of them."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.filter import Filters, by_sql
from rmq.sql92 import grammar
from rmq.sql92.conditions import Part, Properties, WrongError
from rmq.sql92.values import IncomparableError, Long, Value, order, order_numbers
from tests.golden.sql92_cases import EXPRESSIONS, MESSAGES

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sql92-5.5.0.json").read_text())
RESULTS: dict[str, str] = GOLDEN["results"]
REFUSED = "X"
DEPTH_MAX = 100
ZEROS = {"a > 0.0", "a > .0", "a = 0.00e5", "a > -0.0"}


def letter(part: Part, properties: Properties) -> str:
    """As tests/golden/java/Evaluate.java writes it."""
    try:
        value = part.run(properties)
    except IncomparableError:
        return "E"
    return {True: "T", False: "F", None: "N"}[value]  # type: ignore[index]  # a condition is one of the three


def ours(expression: str) -> str:
    """Our line of the golden file."""
    try:
        part = grammar.parse(expression)
    except WrongError:
        return REFUSED
    return "".join(letter(part, message) for message in MESSAGES)


def error(expression: str, depth_max: int = DEPTH_MAX) -> str:
    """The text that the client gets."""
    with pytest.raises(ClientError) as caught:
        by_sql(expression, depth_max)
    assert caught.value.code is Code.ILLEGAL_FILTER_EXPRESSION
    return caught.value.text


def filters(**settings: int) -> Filters:
    """With these limits."""
    return Filters(msgspec.structs.replace(Config(), **settings))


# -- as Apache -----------------------------------------------------------------------------------------------------


def test_the_golden_file_is_of_these_cases() -> None:
    """At least 300 expressions and 20 messages, recorded with 5.5.0's own classes; most of them are not refused."""
    assert GOLDEN["version"] == "rocketmq-filter 5.5.0"
    assert list(RESULTS) == list(EXPRESSIONS)
    assert len(EXPRESSIONS) >= 300
    assert len(MESSAGES) == 20
    assert sum(result != REFUSED for result in RESULTS.values()) >= 300


def test_every_expression_means_what_it_means_to_apache() -> None:
    """Letter by letter: true, false, unknown, or it throws; two differences, which the next two tests explain."""
    unlike = {expression for expression in EXPRESSIONS if ours(expression) != RESULTS[expression]}
    ignored = {expression for expression in unlike if ours(expression) == REFUSED}
    assert unlike - ignored == ZEROS
    assert len(ignored) == 23, sorted(ignored)


def test_what_apache_ignores_is_refused() -> None:
    """Apache's parser stops behind a complete expression and never looks at the rest: up to where ours is wrong it
    says the same.
    """
    for expression, result in RESULTS.items():
        if ours(expression) == REFUSED != result:
            with pytest.raises(WrongError) as caught:
                grammar.parse(expression)
            assert ours(expression[: caught.value.at]) == result, expression


@pytest.mark.parametrize("expression", sorted(ZEROS))
def test_zero_is_a_number(expression: str) -> None:
    """Apache refuses 0.0 because it is less than the least positive double, which it takes for the least one. Here it
    means what a number next to it means there, for all that is not zero itself.
    """
    assert RESULTS[expression] == REFUSED
    near = expression.replace("0.00e5", "1e-300").replace("0.0", "1e-300").replace(" .0", " 1e-300")
    unlike = [at for at, (zero, one) in enumerate(zip(ours(expression), ours(near), strict=True)) if zero != one]
    assert all(float(MESSAGES[at]["a"]) == 0 for at in unlike)


# -- where it is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "character", "why"),
    [
        ("a = ", 5, "ends too early"),
        ("a = 5 b = 6", 7, "'b' is not expected"),
        ("a LIKE 'x'", 3, "'LIKE' is not expected"),
        ("a = 'x", 5, "no end"),
        ("a != 5", 3, "unequal is <>"),
        ("a = 5 AND\nb # 6", 13, "'#' is not known"),
        ("a = 5 AND 6", 11, "not a condition"),
        ("a = 5 AND b = NULL", 15, "IS NULL"),
        ("a = 5 OR b > 'x'", 14, "only numbers"),
        ("a = 5 OR TRUE = 5", 17, "TRUE and FALSE"),
        ("5 IN ('x')", 1, "only a property"),
        ("a BETWEEN 5 AND 1", 11, "smaller value first"),
        ("a > 9223372036854775808", 5, "greater than"),
        ("a > 99999999999999999999999999", 5, "greater than"),
        ("a > 1e309", 5, "out of the range"),
        ("a > 1e-400", 5, "out of the range"),
        ("a = 5 -- fine\nAND", 18, "ends too early"),
    ],
)
def test_an_error_says_where_and_why(expression: str, character: int, why: str) -> None:
    """ILLEGAL_FILTER_EXPRESSION; characters are counted from 1."""
    text = error(expression)
    assert text.startswith(f"SQL92 filter, character {character} of {len(expression)}: "), text
    assert why in text


def test_a_comment_may_end_the_text() -> None:
    """With or without the end of its line, whatever is in it; two signs in front of a number are none."""
    for expression in ("a = 5 -- it's", "a = 5 -- it's\n", "a = 5 /* # */", "/**/ a = /***/ 5 --", "a = --5 -- 6"):
        assert by_sql(expression, DEPTH_MAX).matches({"a": "5"}), expression


def test_conditions_nest_to_a_limit() -> None:
    """Each level of a condition costs a call in every message; chains and brackets cost none."""
    assert "nests 6 conditions, at most 5" in error("NOT NOT NOT a = 5", 5)
    assert by_sql("NOT NOT a = 5", 5).matches({"a": "5"}) is False
    assert by_sql(" OR ".join(["a = 5"] * 500), 3).matches({"a": "5"})
    assert by_sql("(" * 500 + "a = 5" + ")" * 500, 2).matches({"a": "5"})
    assert by_sql("a = " + "- " * 500 + "5", 2).matches({"a": "5"})


def test_the_deepest_that_any_configuration_allows_can_be_evaluated() -> None:
    """And what is longer is refused, not a crash."""
    deepest = "NOT " * 298 + "a"
    assert by_sql(deepest, 300).matches({"a": "5"}) is False
    assert "nests" in error("NOT " * 16_000 + "a", 300)
    assert "nests" in error("- " * 32_000 + "a IS NULL", 300)


@given(
    st.text()
    | st.lists(st.sampled_from([*grammar.KEYWORDS, *"()=<>-+,'.5a", "<>", "'x'", "a", "--", "/*"])).map(" ".join)
)
def test_any_text_is_a_filter_or_an_error_with_a_place(text: str) -> None:
    """Nothing else comes out, and a filter is true or false for any message."""
    try:
        made = by_sql(text, DEPTH_MAX)
    except ClientError as wrong:
        at = int(wrong.text.split()[3])
        assert 1 <= at <= len(text) + 1
    else:
        assert {made.matches(message) for message in MESSAGES} <= {True, False}


# -- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (5, Long(5), 0),
        (Long(5), 6, -1),
        (5.5, 5, 1),
        (5, True, -1),
        (True, 5, -1),
        (True, False, 1),
        (False, True, -1),
        ("TRUE", True, 0),
        ("no", True, -1),
        ("x", "x", 0),
        ("x", "y", -1),
        (" 5d", 5.0, 0),
        ("-Infinity", -1e308, -1),
        ("-0x1p9999", -1e308, -1),
        ("0x1P9999", 1e308, 1),
        ("0x.8p1", 1.0, 0),
        ("NaN", 1e308, 1),
        (1.0, "NaN", -1),
        ("9223372036854775807", Long(9223372036854775807), 0),
        (Long(-9223372036854775808), "-9223372036854775808", 0),
        ("\u0665", 5, 0),
    ],
)
def test_order(left: Value, right: Value, expected: int) -> None:
    """As Java's compareTo after Apache's conversions; -1 also where there is no order."""
    assert order(left, right) == expected


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (True, "true"),
        ("5.0", 5),
        (" 5", 5),
        ("2147483648", 5),
        ("9223372036854775808", Long(1)),
        ("5" * 5000, 5),
        ("1_0", 5),
        ("\U0001d7d3", 5),
        ("", 5),
        ("inf", 5.0),
        ("nan", 5.0),
        ("1_0", 5.0),
        ("0x1", 5.0),
        ("\u0665", 5.0),
        ("\u00a05", 5.0),
    ],
)
def test_what_is_no_number_cannot_be_compared_with_one(left: Value, right: Value) -> None:
    """Apache throws; a whole number takes whole numbers of its own size only."""
    with pytest.raises(IncomparableError):
        order(left, right)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [("-0.0", "0.0", -1), ("0", "-0", 1), ("NaN", "NaN", 0), ("1e1", "10", 0), ("9", "10", -1), ("10", "9", 1)],
)
def test_two_texts_are_compared_as_doubles(left: str, right: str, expected: int) -> None:
    """By < and its like."""
    found = order_numbers(left, right)
    assert (found > 0) - (found < 0) == expected


# -- what is kept --------------------------------------------------------------------------------------------------


def test_filters_of_one_text_are_one() -> None:
    """Also when they were compiled apart: polls are grouped by them. Other texts, and tags, are others."""
    first, second = by_sql("a = 5", 9), by_sql("a = 5", 9)
    assert first == second
    assert hash(first) == hash(second)
    assert first != by_sql("a=5", 9)
    assert first.condition != "a = 5"


def test_a_filter_is_compiled_once() -> None:
    """As long as it is kept, in characters; the longest unused goes first. What was refused is kept as well."""
    kept = filters(sql_kept_chars_max=15)
    first, second = kept.by_sql("a = 1"), kept.by_sql("a = 2")
    with pytest.raises(ClientError) as wrong:
        kept.by_sql("a = ?")
    assert kept.by_sql("a = 1") is first
    third = kept.by_sql("a = 3")
    assert (kept.by_sql("a = 1") is first, kept.by_sql("a = 3") is third) == (True, True)
    with pytest.raises(ClientError, match="'\\?' is not known") as again:
        kept.by_sql("a = ?")
    assert again.value is not wrong.value
    assert kept.by_sql("a = 2") is not second


def test_nothing_has_to_be_kept() -> None:
    """sql_kept_chars_max 0, and an expression that is longer than what is kept."""
    for kept in (filters(sql_kept_chars_max=0), filters(sql_kept_chars_max=4)):
        assert kept.by_sql("a = 1") is not kept.by_sql("a = 1")


def test_a_filter_has_a_length() -> None:
    """ILLEGAL_FILTER_EXPRESSION beyond sql_chars_max, and beyond eight times as many for all of one client."""
    kept = filters(sql_chars_max=5)
    kept.check_total(40)
    with pytest.raises(ClientError, match="at most 40 characters together, these have 41"):
        kept.check_total(41)
    kept.by_sql("a = 1")
    with pytest.raises(ClientError, match="longer than 5 characters, it has 6") as caught:
        kept.by_sql("a = 10")
    assert caught.value.code is Code.ILLEGAL_FILTER_EXPRESSION


def test_a_server_without_sql_never_loads_the_parser() -> None:
    """It would cost each start 0.1 s."""
    code = "import sys, rmq.node; sys.exit(any(name.startswith(('lark', 'rmq.sql92')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
