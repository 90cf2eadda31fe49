"""JSON that is none, or says what nobody would: for every document that is read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SPELLINGS", "VALUES", "leaf_changes"]

_DEEP = 100_000


def _text(data: bytes) -> Callable[[bytes], bytes]:
    return lambda _: data


def _with_version(version: Any) -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        document = json.loads(good)
        return json.dumps({**document, "format_version": version}).encode()

    return change


def _twice(good: bytes) -> bytes:
    """Have every key of the outermost object twice, the first time as null."""
    document = json.loads(good)
    nulls = ",".join(f"{json.dumps(key)}:null" for key in document)
    return b"{" + nulls.encode() + b"," + json.dumps(document).encode()[1:]


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "empty": _text(b""),
    "blank": _text(b" \n" * 1000),
    "html": _text(b"<!DOCTYPE html><title>403 Forbidden</title>"),
    "number": _text(b"1"),
    "text": _text(b'"plan"'),
    "null": _text(b"null"),
    "list": _text(b"[]"),
    "object": _text(b"{}"),
    "nan": _text(b'{"format_version": NaN}'),
    "infinite": _text(b'{"format_version": 1e999}'),
    "deep-lists": _text(b"[" * _DEEP),
    "deep-closed": _text(b"[" * _DEEP + b"]" * _DEEP),
    "deep-objects": _text(b'{"a":' * _DEEP),
    "digits": _text(b'{"format_version": 1, "n_cells": ' + b"9" * 10_000 + b"}"),
    "cut": lambda good: good[: len(good) // 2],
    "cut-last": lambda good: good.rstrip()[:-1],
    "followed": lambda good: good + b"{}",
    "zeros": lambda good: bytes(len(good)),
    "mark": lambda good: b"\xef\xbb\xbf" + good,
    "utf16": lambda good: good.decode().encode("utf-16"),
    "utf32": lambda good: good.decode().encode("utf-32"),
    "not-utf8": lambda good: good[:-2] + b"\xff\xfe" + good[-2:],
    "surrogate": lambda good: good.replace(b'"', b'"\\ud800', 1),
    "commented": lambda good: b"// a comment\n" + good,
    "comma": lambda good: good.rstrip()[:-1] + b",}",
    "quotes": lambda good: good.replace(b'"', b"'"),
    "keys-twice": _twice,
    "long-text": lambda _: b'{"format_version":1,"a":"' + b"x" * (1 << 20) + b'"}',
    "version-text": _with_version("1"),
    "version-true": _with_version(True),
    "version-fraction": _with_version(1.5),
    "version-negative": _with_version(-1),
    "version-new": _with_version(999),
    "version-huge": _with_version(10**40),
    "version-null": _with_version(None),
    "version-list": _with_version([1]),
}
"""Of any document's bytes."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    1e308,
    "",
    "../../../../etc/passwd",
    "/dev/zero",
    "\ud800",
    [],
    {},
    [[]],
)
"""What may stand where something else is expected."""


def leaf_changes(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of a document, in each one value, list or object replaced, taken away or said twice; with a name.

    Of lists only the first entry is gone into.
    """
    for path in _paths(document):
        for number, value in enumerate(VALUES):
            yield f"{_spelled(path)}={number}", _replaced(document, path, value)
        if isinstance(path[-1], str):
            yield f"{_spelled(path)}=gone", _replaced(document, path, _GONE)
        found = _at(document, path)
        if isinstance(found, list) and found:
            yield f"{_spelled(path)}=twice", _replaced(document, path, [*found, *found])
            yield f"{_spelled(path)}=short", _replaced(document, path, found[:-1])


_GONE = object()
_Path = tuple["str | int", ...]


def _paths(document: Any, path: _Path = ()) -> Iterator[_Path]:
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _paths(value, (*path, key))
    elif isinstance(document, list) and document:
        yield from _paths(document[0], (*path, 0))


def _at(document: Any, path: _Path) -> Any:
    for step in path:
        document = document[step]
    return document


def _replaced(document: Any, path: _Path, value: Any) -> Any:
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(document, dict):
        changed = dict(document)
        if not rest and value is _GONE:
            del changed[str(step)]
        else:
            changed[str(step)] = _replaced(document[step], rest, value)
        return changed
    return [_replaced(entry, rest, value) if at == step else entry for at, entry in enumerate(document)]


def _spelled(path: _Path) -> str:
    return ".".join(map(str, path))
