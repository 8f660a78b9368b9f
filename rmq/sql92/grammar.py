"""The grammar of SQL92 filters, and where an expression is wrong.

Owns the text: tokens, precedence, the position of an error. Accepts what Apache's parser (5.5.0) accepts, but for what
stands behind a complete expression (Apache ignores it: `a LIKE 'x'` there means `a`) and 0.0 (Apache refuses it).
The first import costs about 0.1 s, for the parser generator; so only an expression imports this module.

    or, and                          lowest
    =  <>  IS [NOT] NULL
    >  >=  <  <=  [NOT] BETWEEN x AND y  [NOT] IN ('a', 'b')  [NOT] CONTAINS|STARTSWITH|ENDSWITH 's'
    +  -  NOT                        highest
"""

import operator
from collections.abc import Callable
from typing import Final, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from rmq.sql92 import conditions
from rmq.sql92.conditions import Part, WrongError

GRAMMAR = r"""
start: disjunction
?disjunction: conjunction (_OR conjunction)*
?conjunction: equality (_AND equality)*
?equality: comparison
    | equality "=" comparison -> equal
    | equality "<>" comparison -> unequal
    | equality _IS NULL -> is_null
    | equality _IS _NOT NULL -> is_not_null
?comparison: unary
    | comparison ">" unary -> greater
    | comparison ">=" unary -> greater_or_equal
    | comparison "<" unary -> less
    | comparison "<=" unary -> less_or_equal
    | comparison _BETWEEN unary _AND unary -> between
    | comparison _NOT _BETWEEN unary _AND unary -> not_between
    | comparison _IN "(" TEXT ("," TEXT)* ")" -> among
    | comparison _NOT _IN "(" TEXT ("," TEXT)* ")" -> not_among
    | comparison _CONTAINS TEXT -> contains
    | comparison _NOT _CONTAINS TEXT -> not_contains
    | comparison _STARTSWITH TEXT -> starts
    | comparison _NOT _STARTSWITH TEXT -> not_starts
    | comparison _ENDSWITH TEXT -> ends
    | comparison _NOT _ENDSWITH TEXT -> not_ends
?unary: primary
    | "+" unary
    | "-" unary -> negate
    | _NOT unary -> invert
?primary: TEXT -> text
    | INTEGER -> integer
    | DECIMAL -> decimal
    | TRUE -> true
    | FALSE -> false
    | NULL -> null
    | NAME -> prop
    | "(" disjunction ")"

NAME: /[A-Za-z_$][A-Za-z0-9_$]*/
TEXT: /'(?:''|[^'])*'/
INTEGER: /0|[1-9][0-9]*[lL]?/
DECIMAL.1: /[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+/

%declare _OR _AND _NOT _IS _BETWEEN _IN _CONTAINS _STARTSWITH _ENDSWITH TRUE FALSE NULL
%ignore /[ \t\n\r\f]+/
%ignore /--[^\n\r]*(?:\r\n|\n|\r)/
%ignore /\/\*[^*]*\*(?:\*|[^*\/][^*]*\*)*\//
"""
LITERALS: Final = ("TRUE", "FALSE", "NULL")
OPERATORS: Final = ("OR", "AND", "NOT", "IS", "BETWEEN", "IN", "CONTAINS", "STARTSWITH", "ENDSWITH")
KEYWORDS: Final = {word: word for word in LITERALS} | {word: f"_{word}" for word in OPERATORS}


def _keyword(token: Token) -> Token:
    """A name is a keyword in any case: longer names that begin as one are names."""
    kind = KEYWORDS.get(token.upper())
    return token if kind is None else Token.new_borrow_pos(kind, str(token), token)


def _text(token: Token) -> str:
    return token[1:-1].replace("''", "'")


def _compares(accepts: Callable[[int, int], bool]) -> "Callable[[Builder, Part, Part], Part]":
    return lambda _, left, right: conditions.compare(accepts, left, right)


def _searches(found: conditions.Search, *, wanted: bool) -> "Callable[[Builder, Part, Token], Part]":
    return lambda _, part, token: conditions.search(part, found, _text(token), wanted=wanted)


@v_args(inline=True)
class Builder(Transformer[Token, Part]):
    """Each rule of the grammar, as soon as it is complete."""

    def start(self, part: Part) -> Part:
        """A whole expression is a condition."""
        return conditions.condition(part)

    def disjunction(self, *parts: Part) -> Part:
        """OR."""
        return conditions.either(parts)

    def conjunction(self, *parts: Part) -> Part:
        """AND."""
        return conditions.all_of(parts)

    def equal(self, left: Part, right: Part) -> Part:
        """=."""
        return conditions.equal(left, right)

    def unequal(self, left: Part, right: Part) -> Part:
        """<>."""
        return conditions.invert(conditions.equal(left, right))

    def is_null(self, part: Part, _: Token) -> Part:
        """IS NULL."""
        return conditions.is_null(part)

    def is_not_null(self, part: Part, _: Token) -> Part:
        """IS NOT NULL."""
        return conditions.invert(conditions.is_null(part))

    greater = _compares(operator.gt)
    greater_or_equal = _compares(operator.ge)
    less = _compares(operator.lt)
    less_or_equal = _compares(operator.le)

    def between(self, value: Part, low: Part, high: Part) -> Part:
        """BETWEEN."""
        return conditions.between(value, low, high)

    def not_between(self, value: Part, low: Part, high: Part) -> Part:
        """NOT BETWEEN."""
        return conditions.not_between(value, low, high)

    def among(self, part: Part, *texts: Token) -> Part:
        """IN."""
        return conditions.among(part, frozenset(map(_text, texts)), wanted=True)

    def not_among(self, part: Part, *texts: Token) -> Part:
        """NOT IN."""
        return conditions.among(part, frozenset(map(_text, texts)), wanted=False)

    contains = _searches(str.__contains__, wanted=True)
    not_contains = _searches(str.__contains__, wanted=False)
    starts = _searches(str.startswith, wanted=True)
    not_starts = _searches(str.startswith, wanted=False)
    ends = _searches(str.endswith, wanted=True)
    not_ends = _searches(str.endswith, wanted=False)

    def negate(self, part: Part) -> Part:
        """-."""
        return conditions.negate(part)

    def invert(self, part: Part) -> Part:
        """NOT."""
        return conditions.invert(part)

    def text(self, token: Token) -> Part:
        """'it''s'."""
        return conditions.constant(_text(token), _at(token))

    def integer(self, token: Token) -> Part:
        """5, 5L."""
        return conditions.integer(token, _at(token))

    def decimal(self, token: Token) -> Part:
        """5.5, .5, 5e5."""
        return conditions.decimal(token, _at(token))

    def true(self, token: Token) -> Part:
        """TRUE."""
        return conditions.constant(True, _at(token))

    def false(self, token: Token) -> Part:
        """FALSE."""
        return conditions.constant(False, _at(token))

    def null(self, token: Token) -> Part:
        """NULL."""
        return conditions.constant(None, _at(token))

    def prop(self, token: Token) -> Part:
        """The name of a property; case counts."""
        return conditions.prop(str(token), _at(token))


def _at(token: Token) -> int:
    assert token.start_pos is not None
    return token.start_pos


_PARSER = Lark(GRAMMAR, parser="lalr", lexer="basic", transformer=Builder(), lexer_callbacks={"NAME": _keyword})


def parse(text: str) -> Part:
    """The whole expression. Raises WrongError."""
    try:
        return cast("Part", _PARSER.parse(text))  # what Builder.start makes, in place of a tree
    except UnexpectedCharacters as error:
        at = cast("int", error.pos_in_stream)  # its declared type is None
        raise WrongError(at, _unknown(text, at)) from None
    except UnexpectedToken as error:
        if error.token.type == "$END":
            raise WrongError(len(text), "the expression ends too early") from None
        at = _at(error.token)
        if text.startswith("--", at):  # at another place it is two signs: `a > --5` is an expression of Apache's
            return parse(text[:at])  # a comment up to the end of the text, which the lexer takes only with a line's end
        raise WrongError(at, f"{str(error.token)[:40]!r} is not expected here") from None


def _unknown(text: str, at: int) -> str:
    if text[at] == "'":
        return "this text has no end; close it with '"
    if text.startswith("!=", at):
        return "'!' is not known; unequal is <>"
    return f"{text[at]!r} is not known"
