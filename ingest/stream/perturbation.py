"""Cells of one perturbation in a file that is sorted by perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ingest.stream.labels.annotations import annotated

if TYPE_CHECKING:
    from ingest.stream.labels.annotations import Columns

__all__ = ["SORTING", "get_perturbation_slice", "label_codes"]

SORTING = "sorting_metadata"
"""The entry of uns in which `sort_by_perturbation` notes what it did."""


def get_perturbation_slice(
    adata_or_path: Any, perturbation_label: str, perturbation_column: str = "perturbation"
) -> tuple[slice | None, bool]:
    """Return where the cells of one label lie, if the file is sorted by perturbation.

    The labels themselves are looked at: a slice is all cells of the label and no others, whatever has happened to the
    file since it was sorted.

    Parameters
    ----------
    adata_or_path
        Path, URL, handle, or AnnData in memory or backed.
    perturbation_label
        The label.
    perturbation_column
        Of obs.

    Returns
    -------
    slice, bool
        Rows ``[start, stop)`` and True; None and False if the file is not sorted by this column, or has no such label.

    Raises
    ------
    TypeError, NoFileError, SourceError, ConfigError
        It is nothing to read annotations from.
    """
    with annotated(adata_or_path) as given:
        if given.note(SORTING).get("sorted_by") != perturbation_column or perturbation_column not in given.obs.names:
            return None, False
        first, last, count = _extent(given.obs, perturbation_column, str(perturbation_label))
    if count == 0 or last + 1 - first != count:
        return None, False
    return slice(first, last + 1), True


def label_codes(values: pd.Series[Any]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[str]]:
    """Return labels as numbers, int64 ``(n_cells,)`` with -1 for missing ones, and the distinct labels as text.

    Labels are those that occur, in the order of the text's code points.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        texts = np.array([str(label) for label in values.cat.categories], dtype=object)
        raw = values.cat.codes.to_numpy(np.int64)
    else:
        raw, distinct = pd.factorize(values, use_na_sentinel=True)
        texts = np.array([str(label) for label in distinct], dtype=object)
    present = np.bincount(raw[raw >= 0], minlength=len(texts)) > 0
    names = sorted(set(texts[present]))
    place = {name: number for number, name in enumerate(names)}
    moved = np.array([*(place.get(text, -1) for text in texts), -1], np.int64)  # the last for missing labels, code -1
    return moved[raw], names


def _extent(obs: Columns, column: str, label: str) -> tuple[int, int, int]:
    """Return the first and the last row with a label, and how many have it."""
    first, last, count, start = -1, -1, 0, 0
    for piece in obs.pieces(column):
        codes, names = label_codes(piece)
        rows = np.flatnonzero(codes == names.index(label)) if label in names else np.empty(0, np.int64)
        if len(rows):
            first = start + int(rows[0]) if first < 0 else first
            last, count = start + int(rows[-1]), count + len(rows)
        start += len(piece)
    return first, last, count
