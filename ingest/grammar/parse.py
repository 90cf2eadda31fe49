"""Text to tree, by recursive descent with bounds against hostile input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, cast

from ingest.errors import ConfigError
from ingest.grammar.tree import MIRRORED, AllOf, AnyOf, Comparison, Membership, Node, Op, Value, negate

__all__ = ["parse"]

MAX_CHARACTERS: Final = 1_000_000
"""Long lists of ids are legitimate; this is some 20,000 dataset ids."""
MAX_DEPTH: Final = 40
MAX_COMPARISONS: Final = 256
"""TileDB combines conditions one by one, slowly: 3,000 cost seconds per read. Lists count as one."""
_MAX_INTEGER: Final = 2**64

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<name>[^\W\d]\w*)
    |`(?P<quoted>[^`\n]+)`
    |(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |(?P<number>[+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    |(?P<op>==|!=|<=|>=|<|>)
    |(?P<mark>[()\[\],])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}|0010[0-9a-f]{4})|(.))")
_ESCAPES: Final = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_HINTS: Final = {
    "=": "'==' compares",
    "&": "say 'and'",
    "|": "say 'or'",
    "~": "say 'not'",
    "!": "say 'not', or '!=' to compare",
    ".": "a column whose name holds a dot stands in `backquotes`",
    "'": "the text has no closing quote",
    '"': "the text has no closing quote",
    "`": "the name has no closing backquote",
}
_Kind = Literal["name", "quoted", "text", "number", "op", "mark", "end"]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    start: int


def parse(text: str) -> Node:
    """Parse a filter.

    Raises
    ------
    ConfigError
        ``filter-syntax``: not of the grammar, or beyond its bounds.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"the filter has {len(text):,} characters; {MAX_CHARACTERS:,} are allowed", kind="filter-syntax"
        )
    return _Parser(text).whole()


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            _refuse(text, at, f"unexpected {text[at]!r}", _HINTS.get(text[at]))
        if match.lastgroup != "space":
            kind = cast("_Kind", match.lastgroup)
            found.append(_Token(kind, match.group(kind), at))
        at = match.end()
    return [*found, _Token("end", "", len(text))]


def _refuse(text: str, at: int, what: str, hint: str | None = None) -> NoReturn:
    before, after = text[max(at - 40, 0) : at], text[at : at + 30]
    shown = f"{'…' if at > 40 else ''}{before}^{after}{'…' if at + 30 < len(text) else ''}"
    raise ConfigError(f"filter: {what} at the ^ in: {shown}", kind="filter-syntax", hint=hint)


class _Parser:
    """One pass over the tokens of `text`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0
        self._comparisons = 0

    def whole(self) -> Node:
        node = self._or()
        if self._peek().kind != "end":
            self._expected("'and', 'or' or the end")
        return node

    def _or(self) -> Node:
        terms = [self._and()]
        while self._took("name", "or"):
            terms.append(self._and())
        return terms[0] if len(terms) == 1 else AnyOf(tuple(terms))

    def _and(self) -> Node:
        terms = [self._not()]
        while self._took("name", "and"):
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else AllOf(tuple(terms))

    def _not(self) -> Node:
        negated = False
        while self._took("name", "not"):
            negated = not negated
        node = self._group() if self._took("mark", "(") else self._comparison()
        return negate(node) if negated else node

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            _refuse(self._text, self._tokens[self._next - 1].start, f"more than {MAX_DEPTH} nested parentheses")
        node = self._or()
        if not self._took("mark", ")"):
            self._expected("')'")
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            _refuse(
                self._text,
                self._peek().start,
                f"more than {MAX_COMPARISONS} comparisons",
                "`column in [...]` takes any number of values",
            )
        if self._is_column():
            return self._from_column()
        return self._from_value()

    def _from_column(self) -> Node:
        column = self._column()
        negated = self._took("name", "not")
        if self._took("name", "in"):
            return Membership(column, self._list(), negated)
        if negated:
            self._expected("'in'")
        return Comparison(column, self._op(), self._value())

    def _from_value(self) -> Node:
        value, op = self._value(), MIRRORED[self._op()]
        column = self._column()
        first = Comparison(column, op, value)
        if self._peek().kind != "op":
            return first
        return AllOf((first, Comparison(column, self._op(), self._value())))

    def _list(self) -> tuple[Value, ...]:
        if not self._took("mark", "["):
            self._expected("'['")
        values = [self._value()]
        while self._took("mark", ","):
            if self._peek().text == "]":
                break
            values.append(self._value())
        if not self._took("mark", "]"):
            self._expected("',' or ']'")
        return tuple(dict.fromkeys(values))

    def _is_column(self) -> bool:
        token = self._peek()
        return token.kind == "quoted" or (token.kind == "name" and token.text not in ("True", "False"))

    def _column(self) -> str:
        if not self._is_column() or (self._peek().kind == "name" and self._peek().text in ("and", "or", "not", "in")):
            self._expected("a column")
        return self._take().text

    def _op(self) -> Op:
        if self._peek().kind != "op":
            self._expected("a comparison (==, !=, <, <=, >, >=, in, not in)")
        return cast("Op", self._take().text)

    def _value(self) -> Value:
        token = self._peek()
        if token.kind == "text":
            return self._string(self._take())
        if token.kind == "number":
            return self._number(self._take())
        if token.kind == "name" and token.text in ("True", "False"):
            return self._take().text == "True"
        hint = f"text stands in quotes: '{token.text}'" if token.kind in ("name", "quoted") else None
        return self._expected("a value ('text', a number, True or False)", hint)

    def _string(self, token: _Token) -> str:
        def plain(match: re.Match[str]) -> str:
            code = match[1] or match[2] or match[3]
            if code:
                return chr(int(code, 16))
            if match[4] not in _ESCAPES:
                at = token.start + 1 + match.start()
                _refuse(self._text, at, f"unknown escape \\{match[4]}", r"\\ is a backslash")
            return _ESCAPES[match[4]]

        value = _ESCAPE.sub(plain, token.text[1:-1])
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            _refuse(self._text, token.start, "text that is not Unicode")
        return value

    def _number(self, token: _Token) -> int | float:
        digits = token.text.replace("_", "")
        if re.fullmatch(r"[+-]?\d+", digits):
            # Bounded before int(): converting a million digits takes minutes.
            if len(digits.lstrip("+-0")) <= 20 and abs(value := int(digits)) < _MAX_INTEGER:
                return value
        elif abs(number := float(digits)) != float("inf"):
            return number
        return _refuse(self._text, token.start, "a number beyond 64 bits")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _took(self, kind: _Kind, text: str) -> bool:
        found = self._peek().kind == kind and self._peek().text == text
        self._next += found
        return found

    def _expected(self, what: str, hint: str | None = None) -> NoReturn:
        token = self._peek()
        instead = f", not {token.text[:30]!r}," if token.kind != "end" else ""
        _refuse(self._text, token.start, f"expected {what}{instead}", hint)
