"""A source is at fault when it is found so twice, with everything closed and opened again in between.

Ranges of files carry no checksum. A bit that flips on its way makes HDF5 fail to inflate, a barcode another or a count
negative, which looks like the source's own fault; and for that chunks are given up, by ``--without-bad`` for good.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from ingest.errors import CorruptError, SourceError
from ingest.json_lines import log_event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ingest.errors import IngestError

__all__ = ["Doubts", "look_twice"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Doubts:
    """The chunks of a unit for which a source was found at fault once; of each source by itself.

    Parameters
    ----------
    known
        Sources that the plan says to be at fault: planning looked twice, and nobody reads them.
    """

    def __init__(self, known: Collection[str] = ()) -> None:
        self._known = known
        self._found: dict[int, dict[str | None, SourceError]] = {}
        self._again: set[int] = set()

    def take(self) -> tuple[int, ...]:
        """Return the chunks to be made once more since this was asked last, ascending.

        None comes more often than it has sources, and once more: each time another one is found at fault.
        """
        again, self._again = tuple(sorted(self._again)), set()
        return again

    def judge(self, error: IngestError, chunks: Sequence[int]) -> Iterator[tuple[IngestError, Sequence[int]]]:
        """Yield what `chunks`, which `error` has stopped, have failed by: nothing of those to be made once more."""
        if not isinstance(error, SourceError) or error.source in self._known:
            yield error, chunks
            return
        found = [self._found.setdefault(chunk, {}) for chunk in chunks]
        before = {chunk: its[error.source] for chunk, its in zip(chunks, found, strict=True) if error.source in its}
        if same := [chunk for chunk, first in before.items() if first.kind == error.kind]:
            yield error, same
        for chunk, first in before.items():
            if first.kind != error.kind:
                yield _read_otherwise(first, error), [chunk]
        for its in found:
            its.setdefault(error.source, error)
        self._again.update(chunk for chunk in chunks if chunk not in before)


def look_twice(look: Callable[[], T]) -> T:
    """Return ``look()``, which opens a source and holds nothing of it; a fault that it finds counts when it is back.

    Raises
    ------
    SourceError
        Both looks found it.
    CorruptError
        ``read-otherwise``: each found another.
    """
    try:
        return look()
    except SourceError as error:
        first = error
    log_event(_log, "second-look", first.message, kind=first.kind, source=first.source)
    try:
        return look()
    except SourceError as second:
        if second.kind != first.kind:
            raise _read_otherwise(first, second) from second
        raise


def _read_otherwise(first: SourceError, second: SourceError) -> CorruptError:
    return CorruptError(
        f"read twice, and otherwise the second time: {first.message}; {second.message}",
        kind="read-otherwise",
        hint="what comes from there is damaged on its way: look at the disk, the memory and the network",
        source=second.source,
    )
