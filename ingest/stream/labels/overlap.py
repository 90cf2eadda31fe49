"""How many members sets have in common, every pair at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["OverlapResult", "compute_overlap"]

_METRICS = ("both", "count", "jaccard")


@dataclass(frozen=True, slots=True, eq=False)
class OverlapResult:
    """What sets have in common; rows and columns are the sets, in the order given."""

    count_matrix: pd.DataFrame
    """int64 ``(n_sets, n_sets)``: members that both have; its diagonal is the sizes."""
    jaccard_matrix: pd.DataFrame
    """float64 ``(n_sets, n_sets)``: those over the members of either, 0 where neither has any."""
    set_sizes: pd.Series[int]
    """int64 ``(n_sets,)``: distinct members of each."""


def compute_overlap(
    sets_dict: Mapping[str, Iterable[Any]], *, metric: Literal["both", "count", "jaccard"] = "both"
) -> OverlapResult:
    """Count what every two of some sets have in common, and compute their Jaccard indices.

    One product of the sets' sparse membership matrix with itself: the work is of the members, not of the pairs.

    Parameters
    ----------
    sets_dict
        Name to members, which have hashes; a member given twice counts once.
    metric
        ``count`` or ``jaccard``: the other matrix is zeros.

    Raises
    ------
    ValueError
        `metric` is none of these.

    Notes
    -----
    Jaccard (1901): ``|A & B| / |A | B|``.
    """
    if metric not in _METRICS:
        raise ValueError(f"metric {metric!r} is none of {', '.join(_METRICS)}")
    names = list(sets_dict)
    membership = _membership([sets_dict[name] for name in names])
    common = (membership @ membership.T).toarray()
    sizes = np.diff(membership.indptr).astype(np.int64)
    either = sizes[:, None] + sizes[None, :] - common
    jaccard = np.divide(common, either, out=np.zeros(common.shape), where=either > 0)
    return OverlapResult(
        _frame(common if metric != "jaccard" else np.zeros_like(common), names),
        _frame(jaccard if metric != "count" else np.zeros_like(jaccard), names),
        pd.Series(sizes, index=names, dtype=np.int64, name="size"),
    )


def _membership(sets: list[Iterable[Any]]) -> Any:
    """Return an int64 CSR matrix ``(n_sets, n_members)`` of ones."""
    numbers: dict[Any, int] = {}
    indptr, indices = [0], []
    for members in sets:
        indices += [numbers.setdefault(member, len(numbers)) for member in dict.fromkeys(members)]
        indptr.append(len(indices))
    ones = np.ones(len(indices), np.int64)
    shape = (len(sets), max(len(numbers), 1))
    return sparse.csr_matrix((ones, np.array(indices, np.int64), np.array(indptr, np.int64)), shape)


def _frame(matrix: Any, names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(matrix, index=names, columns=names)
