"""The order ``window:<cells>:<seed>``: runs of every source drawn in any order, rows mixed inside windows. Pure.

A *run* is what moves as one, consecutive rows of a source: a band of a Census, and of an h5ad as many rows as reading
them apart from their neighbours is worth. Runs of all sources are put into an order that the seed alone decides; every
`cells` rows of that are a window, inside which rows are put into another such order. So a run is in one window, or in
two where a window ends inside it, and a window's rows can be read in the order of their sources and then placed.

Nothing here depends on how numpy draws (`ingest.load.order.draws`): its generators may change with any release
(NEP 19), and a plan must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError, CorruptError
from ingest.load.order.draws import permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.survey.model import SourceSurvey

__all__ = ["SOURCE_ORDER", "WindowOrder", "parse_order", "run_rows", "window_order"]

SOURCE_ORDER = "source"
"""By source as they first appear, then by coordinate."""

_USUAL_CELLS = 1 << 15
"""A window holds at least so many cells unless it is told otherwise: what a worker's usual memory has room for."""

_RUNS, _ROWS = 0, 1
"""What is drawn: each is a stream of its own, rows one for each window."""

_RUNS_PER_WINDOW = 64
"""Runs need not be smaller for a window to be as mixed as its sources allow."""

_CHUNKS_PER_RUN = 16
"""HDF5 chunks that a run fills; the two at its ends are read for its neighbours as well."""

_REMOTE_RUN_BYTES = 16 << 20
"""Stored bytes of a run over a network, where a file is read in blocks of 1 MiB, and opening it takes some more."""

_KEPT_OPEN = 8
_RUNS_PER_FILE = 64
"""Where more files are read than stay open, each is opened for every window that holds a run of it, and the pointers
to all of its rows are read then: few runs a file keep that below the counts."""

_MOST_SEED = (1 << 64) - 1

_Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class WindowOrder:
    """How the rows of a plan are mixed."""

    cells: int
    """Rows of a window, a multiple of the cells a chunk; the last window may have fewer."""
    seed: int
    """From 0 to 2**64 - 1."""

    def __str__(self) -> str:
        return f"window:{self.cells}:{self.seed}"

    def run_places(self, lengths: _Int64) -> _Int64:
        """Return where each run begins once runs are mixed, int64 ``(n_runs,)``.

        Parameters
        ----------
        lengths
            int64 ``(n_runs,)``: rows of each run, in source order.
        """
        order = permutation(len(lengths), self.seed, _RUNS)
        places = np.empty(len(lengths), np.int64)
        ends = np.cumsum(lengths[order])
        places[order] = ends - lengths[order]
        return places

    def mixed(self, start: int, stop: int) -> _Int64:
        """Return which row of mixed runs stands at each of the plan rows ``[start, stop)``, int64 ``(stop - start,)``.

        Parameters
        ----------
        start, stop
            Where one window begins and ends.
        """
        return start + permutation(stop - start, self.seed, _ROWS, start)


def window_order(shuffle: str, window_cells: int | None, seed: int, *, cells_per_chunk: int) -> WindowOrder | None:
    """Return the order that settings ask for; None: source order.

    Parameters
    ----------
    shuffle
        ``none`` or ``window``.
    window_cells
        None: the fewest whole chunks that hold 32,768 cells.

    Raises
    ------
    ConfigError
        ``bad-shuffle``: a window that is no whole number of chunks, or without ``window``; a seed out of range.
    """
    if shuffle == "none":
        if window_cells is not None:
            hint = "say --shuffle window, too"
            raise ConfigError(f"--shuffle-window {window_cells} mixes nothing by itself", kind="bad-shuffle", hint=hint)
        return None
    if window_cells is None:
        window_cells = -(-_USUAL_CELLS // cells_per_chunk) * cells_per_chunk
    if window_cells < 1 or window_cells % cells_per_chunk:
        below = window_cells // cells_per_chunk * cells_per_chunk
        fits = f"{below} or {below + cells_per_chunk}" if below > 0 else f"{cells_per_chunk}"
        raise ConfigError(
            f"--shuffle-window {window_cells}: a window is whole chunks of {cells_per_chunk} cells (-c)",
            kind="bad-shuffle",
            hint=f"--shuffle-window {fits} would do",
        )
    if not 0 <= seed <= _MOST_SEED:
        raise ConfigError(f"--shuffle-seed {seed}: from 0 to {_MOST_SEED}", kind="bad-shuffle")
    return WindowOrder(window_cells, seed)


def parse_order(text: str) -> WindowOrder | None:
    """Read the order of a plan's identity; None: source order.

    Raises
    ------
    CorruptError
        ``unknown-order``: another version's.
    """
    if text == SOURCE_ORDER:
        return None
    try:
        name, cells, seed = text.split(":")
        order = WindowOrder(int(cells), int(seed))
    except ValueError:
        name, order = "", WindowOrder(0, 0)
    if name != "window" or order.cells < 1 or str(order) != text:
        raise CorruptError(f"the plan's order {text!r} is not known here", kind="unknown-order")
    return order


def run_rows(surveys: Sequence[SourceSurvey], window_cells: int) -> _Int64:
    """Return the rows of a run of each source, int64 ``(n_sources,)``: run r is rows ``[r * n, (r + 1) * n)``.

    A Census moves band by band. A CSC file is one run, for any row of it costs reading it whole. Other files move in
    runs so small that a window holds many, and so large that their ends, read twice, are a tenth at most.
    """
    many = sum(survey.layout != "soma" for survey in surveys) > _KEPT_OPEN
    return np.array([_run_rows(survey, window_cells, many=many) for survey in surveys], np.int64)


def _run_rows(survey: SourceSurvey, window_cells: int, *, many: bool) -> int:
    band, n_obs = max(1, survey.band_rows), max(1, survey.n_obs)
    if survey.layout == "soma":
        return band
    if survey.fault is not None:
        return max(1, window_cells // _RUNS_PER_WINDOW)
    if survey.layout == "csc":
        return n_obs
    rows = max(window_cells // _RUNS_PER_WINDOW, _rows_of_chunks(survey), n_obs // _RUNS_PER_FILE if many else 1)
    if survey.source.path is None:
        rows = max(rows, -(-_REMOTE_RUN_BYTES * n_obs // max(1, survey.stored_bytes)))
    # Two runs and a bit of a third are better two.
    rows = max(1, -(-n_obs // max(1, n_obs // max(1, rows))))
    return -(-rows // band) * band


def _rows_of_chunks(survey: SourceSurvey) -> int:
    """Return the rows that fill `_CHUNKS_PER_RUN` HDF5 chunks, were these as long as h5py makes them unless told.

    That is 16 KiB times 2 to the power of the decimal logarithm of the data set's megabytes (``guess_chunk`` in
    h5py/_hl/filters.py), at four bytes an entry; the logarithm is rounded up to a whole one, in whole numbers, which
    are the same on every machine.
    """
    if survey.layout == "dense":
        return max(1, survey.band_rows)  # its chunks are whole rows: none is read for a neighbour
    megabytes = survey.nnz * 4 >> 20
    doublings = -(-megabytes.bit_length() * 3 // 10)
    entries = _CHUNKS_PER_RUN * min(16 << 10 << doublings, 1 << 20) // 4
    return -(-entries * max(1, survey.n_obs) // max(1, survey.nnz))
