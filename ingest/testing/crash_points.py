"""Where a command can be struck, taken from a run that nothing struck: whatever is new there is struck by itself.

A `Scene` is a command with what it finds in DEST. It is played once undisturbed on a store that notes every operation;
then once for every point, followed by the same command again, whose end must be that of the undisturbed one.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

from ingest.cli.main import main
from ingest.layout import FAILURES, GARBAGE, RECEIPTS, RUNS, receipt_chunks
from ingest.ledger.receipts import parse_receipt
from ingest.testing.faults import StoreFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ingest.store.base import Store
    from ingest.testing.faults import Operation

__all__ = ["READS", "Scene", "contents", "kind_of", "opening", "play", "points", "thinned"]

READS = frozenset({"get", "get_range", "stat", "list"})
_OPENERS = ("ingest.store.open.open_store", "ingest.worker.open_store", "ingest.fold_worker.open_store")
_OF_THE_WAY = (RUNS, FAILURES, GARBAGE, "_ingest/amendments/")
"""Records that tell how a dataset came about, not what it holds."""

When = Literal["before", "middle", "after"]
How = Literal["die", "transient", "exists"]
_EVERYWHERE: tuple[tuple[When, How], ...] = (
    ("before", "die"),
    ("middle", "die"),
    ("after", "die"),
    ("before", "transient"),
    ("middle", "transient"),
    ("after", "transient"),
    ("after", "exists"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A command of the command line and what DEST holds before it."""

    arguments: tuple[str, ...]
    before: Mapping[str, bytes] = field(default_factory=dict)
    """Key -> bytes."""
    code: int = 0
    """Of the undisturbed command."""


@contextmanager
def opening(open_store: Callable[[], Store]) -> Iterator[None]:
    """Let the command line and its workers open this store, whatever the URL.

    Nothing that is tried again waits, and plans are made at one and the same time.
    """
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    with ExitStack() as stack:
        for name in _OPENERS:
            stack.enter_context(mock.patch(name, side_effect=lambda *_, **__: open_store()))
        stack.enter_context(mock.patch("ingest.running.random", SimpleNamespace(random=lambda: 0.0)))
        stack.enter_context(mock.patch("ingest.preparing.datetime", SimpleNamespace(now=lambda _: noon)))
        yield


def play(arguments: Sequence[str]) -> int:
    """Run a command in this process; return its exit code."""
    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0


def contents(store: Store) -> dict[str, Any]:
    """Return all that does not tell of the way: key -> bytes; of a receipt, what it commits."""
    found: dict[str, Any] = {}
    for stat in store.list(""):
        if stat.key.startswith(_OF_THE_WAY):
            continue
        data = store.get(stat.key)
        is_receipt = stat.key.startswith(RECEIPTS) and receipt_chunks(stat.key) is not None
        found[stat.key] = parse_receipt(data, key=stat.key).chunks if is_receipt else data
    return found


def points(log: Sequence[Operation], *, every: bool) -> Iterator[StoreFault]:
    """Yield what may strike the operations of `log`.

    Parameters
    ----------
    every
        Every operation in every way. Otherwise one operation of each kind, in the ways that differ in effect: dying
        beside a read leaves what dying after the write before it leaves; of passing trouble every third place will do.
    """
    firsts = {at: number for number, at in enumerate(thinned([kind_of(operation) for operation in log]))}
    for at, operation in enumerate(log):
        for when, how in _EVERYWHERE:
            if (when == "middle" and operation.name != "list") or (how == "exists" and not _creates(operation)):
                continue  # nothing but a listing has a middle here, and nothing but a creation is told that
            if every or (at in firsts and _tells(operation, when, how, firsts[at])):
                yield StoreFault(at, when, how)


def _creates(operation: Operation) -> bool:
    return operation.name.startswith("put_new")


def _tells(operation: Operation, when: When, how: How, number: int) -> bool:
    if how == "transient":
        return (number + ("before", "after", "middle").index(when)) % 3 == 0
    return when == "after" and operation.name not in READS


def kind_of(operation: Operation) -> tuple[str, str]:
    """Return what an operation has in common with others on objects of the same kind."""
    return operation.name, re.sub(r"[0-9a-f]{8,}|\d+", "#", operation.key)


def thinned(kinds: Sequence[object]) -> list[int]:
    """Return where each kind comes first."""
    found: dict[object, int] = {}
    for at, kind in enumerate(kinds):
        found.setdefault(kind, at)
    return sorted(found.values())
