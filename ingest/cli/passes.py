"""How `hvg` and `qc` go over the chunks of a dataset: one bar a pass, one Ray for all of them, and a way to stop."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ingest.cli.pools import announce_pool, pool_for, shared_cluster
from ingest.cli.progress import CountDisplay, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.folding import FoldObserver
    from ingest.pool import Failure
    from ingest.running import OpenPool
    from ingest.settings import WorkSettings

__all__ = ["Passes", "open_passes"]


class Passes(NamedTuple):
    """What a fold is run with."""

    open_pool: OpenPool
    show: Callable[[str], FoldObserver]
    """Begin a bar with that word, in place of the one before."""
    stop_requested: Callable[[], bool]


@contextmanager
def open_passes(settings: WorkSettings, n_workers: int, n_cells: int) -> Iterator[Passes]:
    """Say what is started, and be connected to one Ray for all passes; Ctrl-C ends them in good order."""
    from ingest.interrupt import Interrupt

    announce_pool(settings, n_workers)
    with ExitStack() as shown, Interrupt() as interrupt, shared_cluster(settings, n_workers):

        def show(word: str) -> FoldObserver:
            shown.close()  # the pass before
            return shown.enter_context(_Display(word, n_cells))

        yield Passes(pool_for(settings), show, lambda: interrupt.requested)


class _Display(CountDisplay):
    """One pass, as its observer."""

    def __init__(self, word: str, n_cells: int) -> None:
        super().__init__(word, n_cells, "cells")

    def troubled(self, failure: Failure, retried: int) -> None:
        """Say what is done again; what ends the work is said by its error."""
        if retried:
            what = f"{len(failure.chunks)} chunks" if len(failure.chunks) > 1 else f"chunk {failure.chunks[0]}"
            note(f"{what} trying again: {failure.message}")
