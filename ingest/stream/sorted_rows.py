"""What `sort_by_perturbation` noted of the order of a file's cells, for some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.stream.elements import read_element
from ingest.stream.labels.annotations import columns_of
from ingest.stream.perturbation import SORTING, column_codes
from ingest.stream.reuse import now_text, uns_key

if TYPE_CHECKING:
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["bounds_of", "note_of_rows"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


def note_of_rows(file: OpenH5ad, rows: Int64) -> dict[str, Any] | None:
    """Return the entry for a file of these rows, in their order; None where labels do not lie together in them.

    Boundaries are those of the labels as they are, whatever the entry says. What the sorted file was made of, and the
    row that each cell had there, is not said: the new file is no sorted whole of that.

    Raises
    ------
    HostileFileError
        The labels are damaged.
    """
    if file.get(f"uns/{SORTING}/sorted_by") is None:
        return None
    column = read_element(file, f"uns/{SORTING}/sorted_by")
    obs = columns_of(file, "obs")
    if not isinstance(column, str) or column not in obs.names:
        return None
    codes, names = column_codes(obs, column)
    bounds = bounds_of(codes[rows], names)
    if bounds is None:
        return None
    control = file.get(f"uns/{SORTING}/control_label")
    kept = {} if control is None else {"control_label": read_element(file, f"uns/{SORTING}/control_label")}
    return {
        "sorted_by": column,
        **kept,
        "n_perturbations": len(bounds),
        "perturbation_boundaries": {uns_key(name): np.array(bound, np.int64) for name, bound in bounds.items()},
        "timestamp": now_text(),
    }


def bounds_of(codes: Int64, names: list[str]) -> dict[str, tuple[int, int]] | None:
    """Return where each label's cells lie, ``[start, end)``, in order; None unless those of each lie together. Pure.

    Parameters
    ----------
    codes
        int64 ``(n_cells,)``: numbers of `names`; -1: no label.
    """
    starts = np.flatnonzero(np.diff(codes, prepend=-2))
    ends = np.append(starts[1:], len(codes))
    labels = codes[starts]
    starts, ends, labels = (part[labels >= 0] for part in (starts, ends, labels))
    if len(np.unique(labels)) < len(labels):
        return None
    runs = zip(labels.tolist(), starts.tolist(), ends.tolist(), strict=True)
    return {names[label]: (start, end) for label, start, end in runs}
