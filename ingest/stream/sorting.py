"""Cells sorted by perturbation: those of one label lie together, so that each is one read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.errors import AlreadyExistsError
from ingest.stream.labels.annotations import annotated
from ingest.stream.labels.control import resolve_control_label
from ingest.stream.matrix.carry import Selection
from ingest.stream.matrix.rewrite import write_file
from ingest.stream.matrix.work import Work, check_chunk_size
from ingest.stream.output import no_folder
from ingest.stream.perturbation import SORTING, column_codes, label_codes
from ingest.stream.reuse import now_text, origin_of, uns_key
from ingest.stream.sorted_rows import bounds_of
from ingest.stream.storage import get_matrix_storage_format, local_or_url, open_data, stem_of

if TYPE_CHECKING:
    import os

    import pandas as pd

    from ingest.stream.matrix.work import Reached

__all__ = ["SortOrder", "needs_sorting_for_nbglm", "plan_sort", "sort_by_perturbation"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

_log = logging.getLogger(__name__)

_ORDER_CELLS = 100_000
"""Below so many cells the order itself is noted, too."""
_LOOKED_AT = 20


@dataclass(frozen=True, slots=True, eq=False)
class SortOrder:
    """Which row goes where, and where each label's cells lie then."""

    rows: Int64
    """int64 ``(n_cells,)``: row ``i`` of the output is row ``rows[i]`` of the source."""
    bounds: dict[str, tuple[int, int]]
    """Label to ``[start, end)``, in order; cells without a label come last and are in none."""


def plan_sort(labels: pd.Series[Any], control_label: str) -> SortOrder:
    """Return the order of `labels`, ``(n_cells,)``: control, the others alphabetically, missing; stable. Pure.

    Alphabetically is by code points, as Python compares text.
    """
    return _order_of(*label_codes(labels), control_label)


def _order_of(codes: Int64, names: list[str], control_label: str) -> SortOrder:
    order = sorted(range(len(names)), key=lambda number: names[number] != control_label)  # stable
    rank = np.empty(len(names) + 1, np.min_scalar_type(len(names)))  # a narrow one is sorted by counting
    rank[order] = np.arange(len(names))
    rank[-1] = len(names)  # of missing labels, whose code is -1
    ranks = rank[codes]
    ends = np.cumsum(np.bincount(ranks, minlength=len(names) + 1)).tolist()
    bounds = {names[number]: (ends[at - 1] if at else 0, ends[at]) for at, number in enumerate(order)}
    return SortOrder(np.argsort(ranks, kind="stable"), bounds)


def sort_by_perturbation(
    path: Any,
    perturbation_column: str = "perturbation",
    control_label: str | None = None,
    *,
    output_path: str | os.PathLike[str] | None = None,
    chunk_size: int | None = 4096,
    force: bool = False,
    reached: Reached | None = None,
) -> Path:
    """Write a file's cells sorted by perturbation to another file: control first, the others alphabetically, stable.

    A dense X stays dense, a sparse one becomes CSR; everything else is carried along. ``uns["sorting_metadata"]``
    holds ``sorted_by``, ``control_label``, ``n_perturbations`` (labels, control among them),
    ``perturbation_boundaries`` (label to ``[start, end)``), ``timestamp``, ``original_path``, and below 100,000 cells
    ``sort_order`` (of each row, its row before). Labels that HDF5 takes for paths have their ``/`` as ``%2F`` there.

    Parameters
    ----------
    path
        Path or URL of the file, or its handle.
    perturbation_column
        Of obs. Cells without a label come last.
    control_label
        None: as `resolve_control_label` finds it.
    output_path
        ``{stem}_sorted.h5ad`` beside the file unless given; of a remote file it has to be. What is there already is
        taken if it was made of this file, as it still is, with this column and control; other things made of this file
        are replaced.
    chunk_size
        Rows handled together; None: as `ingest.stream.calculate_optimal_chunk_size` says.
    force
        Do it again, even so; at an `output_path` given, whatever is there.
    reached
        As of `ingest.stream.convert_to_csc`.

    Returns
    -------
    Path
        Of the sorted file.

    Raises
    ------
    NoColumnError
        A KeyError: there is no such column.
    LabelsError
        A ValueError: no control label is found, or the one given is no label.
    AlreadyExistsError
        What is there was not made of this file, or its labels were changed since.
    ValueError
        A `chunk_size` below 1.
    SourceChangedError
        Something else changed the file meanwhile.
    TypeError, NoFileError, SourceError, ConfigError, CredentialsError
        `path` is nothing to read from, or the output cannot be written.
    """
    check_chunk_size(chunk_size)
    source = local_or_url(path)
    if output_path is None and "://" in source:
        raise no_folder(source)
    output = Path(source).with_name(f"{stem_of(source)}_sorted.h5ad") if output_path is None else Path(output_path)
    with annotated(source) as given:
        codes, names = column_codes(given.obs, perturbation_column)
        version = given.version
    control = resolve_control_label(names, control_label, verbose=False)
    origin = origin_of(source, version, perturbation_column=perturbation_column, control_label=control)
    may_replace = force and output_path is not None
    order = _order_of(codes, names, control)
    if origin.is_there(output, SORTING, replace=may_replace) and not force:
        _check_sorted(output, perturbation_column, order)
        _log.info("%s: sorted before, taken as it is", output)
        return output
    notes = _notes(order, perturbation_column, control) | origin.notes()
    with open_data(source, version=version) as file:
        layout: Literal["csr"] | None = None if get_matrix_storage_format(source) == "dense" else "csr"
        selection = Selection(order.rows, uns={SORTING: notes})
        write_file(file, output, selection, layout=layout, work=Work(most_lines=chunk_size, reached=reached))
    return output


def _check_sorted(output: Path, column: str, order: SortOrder) -> None:
    """Raise AlreadyExistsError unless a file has the labels where it says: obs may have been changed since."""
    with annotated(output) as given:
        found = bounds_of(*column_codes(given.obs, column)) if column in given.obs.names else None
    if found != order.bounds:
        raise AlreadyExistsError(
            f"{output} was sorted by {column!r}, and its labels were changed since",
            hint="remove it, write elsewhere, or sort again with force (--force)",
        )


def _notes(order: SortOrder, column: str, control: str) -> dict[str, Any]:
    bounds = {uns_key(label): np.array(bound, np.int64) for label, bound in order.bounds.items()}
    notes: dict[str, Any] = {
        "sorted_by": column,
        "control_label": control,
        "n_perturbations": len(bounds),
        "perturbation_boundaries": bounds,
        "timestamp": now_text(),
    }
    return notes | ({"sort_order": order.rows} if len(order.rows) < _ORDER_CELLS else {})


def needs_sorting_for_nbglm(
    path: Any,
    perturbation_column: str = "perturbation",
    *,
    min_cells: int = 360_000,
    min_perturbations: int = 100,
    contiguity_threshold: float = 0.5,
) -> bool:
    """Tell whether a file is so large and its perturbations so scattered that sorting it pays for a model of each.

    Parameters
    ----------
    path
        Path, URL, handle, or AnnData in memory or backed.
    perturbation_column
        Of obs; without it there is nothing to sort, nor in a file sorted by it whose labels are as they were.
    min_cells, min_perturbations
        With fewer cells or labels, it does not pay.
    contiguity_threshold
        It pays below this contiguity: cells of a label over the rows from its first to its last, averaged over the
        first 20 labels, alphabetically; 1 where all lie together.

    Raises
    ------
    TypeError, NoFileError, SourceError, ConfigError
        `path` is nothing to read annotations from.
    """
    with annotated(path) as given:
        obs = given.obs
        if perturbation_column not in obs.names or obs.n_rows < min_cells:
            return False
        codes, names = label_codes(obs.column(perturbation_column))
        is_noted = given.note(SORTING).get("sorted_by") == perturbation_column
    if is_noted and bounds_of(codes, names) is not None:  # labels may have been changed since it was noted
        return False
    if not names or len(names) < min_perturbations:
        return False
    return bool(
        np.mean([_contiguity(codes, number) for number in range(min(len(names), _LOOKED_AT))]) < contiguity_threshold
    )


def _contiguity(codes: Int64, number: int) -> float:
    rows = np.flatnonzero(codes == number)
    return len(rows) / float(rows[-1] + 1 - rows[0])
