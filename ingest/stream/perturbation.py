"""Cells of one perturbation in a file that is sorted by perturbation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ingest.errors import SourceError
from ingest.fetch.h5ad_open import file_version
from ingest.stream.labels.annotations import annotated
from ingest.stream.storage import address_of_data

if TYPE_CHECKING:
    from ingest.stream.labels.annotations import Annotations, Columns

__all__ = ["SORTING", "get_perturbation_slice", "label_codes"]

SORTING = "sorting_metadata"
"""The entry of uns in which `sort_by_perturbation` notes what it did."""

_FILES_KEPT = 8


def get_perturbation_slice(
    adata_or_path: Any, perturbation_label: str, perturbation_column: str = "perturbation"
) -> tuple[slice | None, bool]:
    """Return where the cells of one label lie, if the file is sorted by perturbation.

    The labels themselves are looked at: a slice is all cells of the label and no others, whatever has happened to the
    file since it was sorted. They are read once as long as the file stays the same.

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
    if isinstance(getattr(adata_or_path, "obs", None), pd.DataFrame):
        with annotated(adata_or_path) as given:
            slices = _slices(given, perturbation_column)
    else:
        address = address_of_data(adata_or_path)
        slices = _slices_of_file(address, _version(address), perturbation_column)
    found = slices.get(str(perturbation_label))
    return found, found is not None


@lru_cache(maxsize=_FILES_KEPT)
def _slices_of_file(address: str, version: str, column: str) -> dict[str, slice]:
    """Return the slices of a file at a version: who asks for one label will ask for all of them."""
    del version  # the file is read as it is; by its version it is remembered
    with annotated(address) as given:
        return _slices(given, column)


def _version(address: str) -> str:
    try:
        return file_version(address)
    except SourceError:
        return ""  # what is wrong with it, opening it says


def _slices(given: Annotations, column: str) -> dict[str, slice]:
    """Return where each label's cells are, of those that lie together; none unless the file is sorted by them."""
    if given.note(SORTING).get("sorted_by") != column or column not in given.obs.names:
        return {}
    codes, names = label_codes(given.obs.column(column))
    rows = np.flatnonzero(codes >= 0)
    counts = np.bincount(codes[rows], minlength=len(names))
    first, last = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    first[codes[rows][::-1]], last[codes[rows]] = rows[::-1], rows  # of several, the one written last stays
    return {
        name: slice(start, stop)
        for name, start, stop, count in zip(names, first.tolist(), (last + 1).tolist(), counts.tolist(), strict=True)
        if stop - start == count
    }


def column_codes(obs: Columns, column: str) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[str]]:
    """Return the labels of a column as `label_codes` does, read piece by piece: texts are not all in memory at once.

    Raises
    ------
    NoColumnError
        A KeyError: there is none of this name.
    """
    obs.check(column)
    numbers: dict[str, int] = {}
    parts = [np.empty(0, np.int32)]
    for piece in obs.pieces(column):
        codes, names = label_codes(piece)
        known = np.array([*(numbers.setdefault(name, len(numbers)) for name in names), -1], np.int32)
        parts.append(known[codes])
    order = sorted(numbers)
    moved = np.full(len(order) + 1, -1)
    moved[[numbers[name] for name in order]] = np.arange(len(order))
    return moved[np.concatenate(parts)], order


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
