"""Expressions and messages on which our SQL92 filters are compared with Apache's. Pure data, most of it products."""

from collections.abc import Iterator
from itertools import product

MESSAGES: tuple[dict[str, str], ...] = (
    {},
    {"a": "5"},
    {"a": "-5", "b": "5"},
    {"a": "5.0", "b": "5"},
    {"a": "5.5", "b": "5.50"},
    {"a": " 5 ", "b": "\t5.5\n"},
    {"a": "+5", "b": "1e1"},
    {"a": "2147483647", "b": "2147483648"},
    {"a": "-2147483648", "b": "-2147483649"},
    {"a": "9223372036854775807", "b": "9223372036854775808"},
    {"a": "NaN", "b": "Infinity"},
    {"a": "-0.0", "b": "0x1.8p1"},
    {"a": "1_000", "b": "5f"},
    {"a": "\u0665", "b": "\U0001d7d3"},
    {"a": "", "b": " "},
    {"a": "true", "b": "FALSE"},
    {"a": "x", "b": "x", "TAGS": "x", "KEYS": "k1 k2"},
    {"a": "it's", "b": "\u00fcn\u00ef", "TAGS": "red"},
    {"a": "xyz", "b": "y", "A": "5", "$b_1": "5"},
    {"a": "7", "b": "1e400", "TAGS": "TagA", "region": "hz", "price": "19.90"},
)

_OPERATORS = ("=", "<>", "<", "<=", ">", ">=")
_CONSTANTS = ("5", "-5", "5L", "5.5", "5.0", "5e0", "2147483648", "-2147483649", "'5'", "'x'", "TRUE", "FALSE", "NULL")
_TRUTHS = ("a IS NULL", "a IS NOT NULL", "missing = 1", "a > 5", "b = 5")  # TRUE and FALSE, unknown, it may throw

_VALUES = """
5 = 5
5 = 5L
5 = 5.0
5L = 5.0
'5' = 5
5 = '5'
'x' = 5
'x' = 'x'
TRUE = TRUE
TRUE = FALSE
TRUE = 5
5 = TRUE
TRUE = 'x'
'true' = TRUE
TRUE = a
TRUE <> a
5 < 6
5 < '6'
TRUE < 5
NULL = NULL
NULL IS NULL
5 IS NULL
5 IS NOT NULL
TRUE IS NOT NULL
missing = other
missing <> other
a = missing
a <> missing
missing < a
a < missing
-a = 5
-a IS NULL
-(a > 5) IS NULL
- -5 = a
+5 = a
+a = 5
+ +a = '5'
-TRUE = a
-'x' IS NULL
-NULL IS NULL
-missing = a
--5 = a
a = 9223372036854775807
a = 9223372036854775808
a = -9223372036854775807
a = -9223372036854775808
a > 1e308
a > 1e309
a > 1e-320
a > 1e-400
a > 0.0
a > .0
a = 0.00e5
a > -0.0
a > 0
a > .5
a > 5.
a > 5.e1
a > 5e+1
a > 5E-1
a > 05
a > 0L
a > 0l
a > 5l
a > 0x5
a > 5x
b > 1.5
b < 1.5
b = 3.0
b >= 10.0
price > 19.5
price > 19
price = '19.90'
price BETWEEN 19.0 AND 20.0
TAGS = 'TagA'
TAGS IN ('TagA', 'red')
TAGS IS NOT NULL AND TAGS <> 'TagA'
KEYS CONTAINS 'k2'
A = 5
$b_1 = 5
_a IS NULL
a = 5 = TRUE
a = b = TRUE
a = 5 = b = 5
(a = 5) = (b = 5)
(a IS NULL) <> (b IS NULL)
a IS NULL = TRUE
a IS NULL IS NULL
(a > 5) IS NULL
a = 'it''s'
a = ''
a = ''''
b = '\u00fcn\u00ef'
a = 'x' -- behind
a = 'x' /* between */ AND /**/ b = 'x'
a /* * ** / */ = 'x'
/* before */ a = 'x'
A=5OR a=5
a='x'AND b='x'
(((a = 5)))
a AND b
a OR a = 5
NOT a
NOT NOT a
NOT a = 5
NOT (a = 5)
NOT a = 5 OR b = 5
NOT (a = 5 AND b = 5)
not a IS null
Not(a Is Not Null)
NOT 5
NOT 'x'
NOT TRUE
NOT NULL
NOT -a
a
TRUE
true
FALSE
NULL
5
'x'
5.5
-a
-5
-(a = 5)
(a)
+TRUE
+a
+(a = 5)
a AND 5
a OR 'x'
'x' AND a
5 OR TRUE
TRUE OR a > 5
a > 5 OR TRUE
FALSE AND a > 5
a > 5 AND FALSE
TRUE AND NULL
NULL OR FALSE
a OR b AND NULL
a = 5 OR b = 5 AND a IS NULL
(a = 5 OR b = 5) AND a IS NULL
a = '5' AND b = '5' OR TAGS = 'x'
TAGS = 'x' OR a = '5' AND b = '5' OR region = 'hz'
"""

_RANGES = """
a BETWEEN 1 AND 5
a BETWEEN 5 AND 5
a BETWEEN 5 AND 1
a BETWEEN 5.5 AND 5
a BETWEEN 5 AND 5.5
a BETWEEN 1L AND 10
a BETWEEN -1 AND -5
a BETWEEN -5 AND 5
a BETWEEN '1' AND 5
a BETWEEN 1 AND '5'
a BETWEEN 'a' AND 'z'
a BETWEEN TRUE AND FALSE
a BETWEEN NULL AND 5
a BETWEEN b AND 10
a BETWEEN 1 AND b
a BETWEEN a AND a
a BETWEEN missing AND 5
a BETWEEN 1 AND missing
missing BETWEEN 1 AND 5
5 BETWEEN 1 AND 9
5 BETWEEN a AND b
'5' BETWEEN 1 AND 9
(a = 5) BETWEEN 1 AND 9
a BETWEEN 1 AND 5 AND b = 5
a BETWEEN 1 AND 5 OR b = 5
a BETWEEN 1 AND 5 BETWEEN 1 AND 5
a BETWEEN (1) AND (5)
a BETWEEN (b = 5) AND 5
a BETWEEN 1
a BETWEEN 1 OR 5
a BETWEEN AND 5
a NOT BETWEEN 1 AND 5
a NOT BETWEEN 5 AND 1
a NOT BETWEEN b AND 10
a NOT BETWEEN 'a' AND 'z'
a NOT BETWEEN missing AND 5
a NOT BETWEEN 1 AND missing
NOT a BETWEEN 1 AND 5
NOT (a BETWEEN 1 AND 5)
"""

_SETS = """
a IN ('5')
a IN ('5', 'x', '')
a IN ('1', '2', '3', '4', '5', '6')
a IN ('x', 'x')
missing IN ('5')
a IN ()
a IN (5)
a IN (TRUE)
a IN (NULL)
a IN (b)
a IN '5'
a IN ('5',)
a IN ('5'
a IN ('5') IN ('5')
'5' IN ('5')
5 IN ('5')
(a) IN ('5')
+a IN ('5')
-a IN ('5')
(a = 5) IN ('5')
TRUE IN ('5')
a NOT IN ('5')
a NOT IN ('5', 'x', '', '-5', '+5', '7')
missing NOT IN ('5')
5 NOT IN ('5')
NOT a IN ('5')
NOT (a IN ('5'))
NOT (missing IN ('5'))
a IN ('it''s', '\u00fcn\u00ef')
a IN ('5') = TRUE
a IN ('5') = (b IN ('5'))
a IN ('5') > 1
"""

_SEARCHES = """
{0} 'x'
NOT {0} 'x'
{1} 'y'
NOT {1} 'y'
{0} ''
NOT {1} ''
{0} 5
{0} b
{0}
{0} ('x')
NOT ({0} 'x')
({0} 'x') IS NULL
{0} 'x' AND {1} 'y'
{0} 'x' = TRUE
{0} 'x' > 1
"""

_SEARCHED = """
missing {0} 'x'
missing NOT {0} 'x'
'xyz' {0} 'x'
'xyz' NOT {0} 'x'
'' {0} ''
5 {0} '5'
5 NOT {0} '5'
TRUE {0} 'T'
NULL {0} 'x'
NULL NOT {0} 'x'
-a {0} '5'
(a = 5) {0} 'x'
(a = 5) NOT {0} 'x'
(a > 5) NOT {0} 'x'
(a > 5) NOT {0} ''
a {0} 'x' {0} 'x'
NOT a {0} 'x'
a {0} 'X'
a {0} 'it'''
b {0} '\u00fc'
"""

_WRONG = """
(
)
()
(a = 5
a = 5)
a =
= 5
a = = 5
a == 5
a != 5
a <> <> 5
a < > 5
a = > 5
a >
a > > 5
a > 5 > 1
a > (b > 1)
a > NOT b
a = NOT b
a > 'x'
a > TRUE
'x' > a
TRUE > a
NULL > a
a > NULL
a = NULL
NULL <> a
a IS
a IS 5
a IS NOT
a IS NOT 5
a NOT NULL
a NOT
a NOT = 5
NOT
AND
OR a
a = 5 AND
a = 5 OR
a = 5 AND OR b = 5
a = 5 && b = 5
a = 5 || b = 5
a = 5; b = 5
a = 5 b = 5
a = 5 garbage
a = 5 'x'
a = 5 (b = 5)
a = 5,
a LIKE 'x%'
a = 5 LIMIT 1
a + 1 > 5
a - 1 > 5
a * 2 > 5
a > 5 + 1
a % 2 = 1
a[0] = 5
a.b = 5
a = "x"
a = 'x
a = x'
a = 'x'y'
'
a = 5 --
a = 5 -- no end of line
a = 5 -- with one\\n
-- only a comment\\n
-- a comment first\\na = 5
a = 5 -- first\\r\\nAND b = 5 -- second
a = 5 /* no end
/* a */
a = 5 */
a = #5
\u00e4 = 5
a = 5\u00a0
a = \u0665
a = 5.5.5
a = 5e
a = 5e+
a = 5 5
a = .
a = 5LL
a = 1e
in = 5
between = 5
NULL
NULL IS TRUE
contains = 5
startswith = 5
tRuE = tRuE
notx = 5
inx IN ('5')
orx = 5 OR x_or = 5
nul IS NULL
$ IS NULL
_ IS NULL
9a = 5
a9 = 5
"""


def _lines(text: str) -> list[str]:
    return [line.replace("\\r", "\r").replace("\\n", "\n") for line in text.strip("\n").split("\n")]


def _all() -> Iterator[str]:
    yield from ("", " \t")
    for left, sign, right in product(("a", "b"), _OPERATORS, _CONSTANTS):
        yield f"{left} {sign} {right}"
    for sign, value in product(_OPERATORS, ("5", "5.5", "'5'")):
        yield f"{value} {sign} a"
    for sign in _OPERATORS:
        yield f"a {sign} b"
    for left, joint, right in product(_TRUTHS, ("AND", "OR"), _TRUTHS):
        yield f"{left} {joint} {right}"
    for word in ("CONTAINS", "STARTSWITH", "EndsWith"):
        for line in _lines(_SEARCHES):
            yield (
                line.replace("NOT {", "a NOT {")
                .replace("{0}", f"a {word}")
                .replace("{1}", f"a {word}")
                .replace("a NOT a", "a NOT")
            )
        yield from (line.format(word) for line in _lines(_SEARCHED))
    for text in (_VALUES, _RANGES, _SETS, _WRONG):
        yield from _lines(text)


EXPRESSIONS: tuple[str, ...] = tuple(dict.fromkeys(_all()))
