"""What an index says of each cell's counts, as a Census does: nnz and raw_sum, held against the counts that came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Broken", "broken_promises"]

Array = np.ndarray[Any, Any]


class Broken(NamedTuple):
    """A column that says otherwise."""

    name: str
    wrong: Array
    """int64 ``(n_wrong,)``: rows, ascending."""
    promised: Array
    """``(n_cells,)``, NaN where nothing is."""
    found: Array
    """``(n_cells,)``"""


def broken_promises(obs: pa.Table, found: Mapping[str, Array], whole: Array, *, fractional: bool) -> Iterator[Broken]:
    """Yield each column of `obs` that says otherwise than was found.

    Parameters
    ----------
    obs
        Of the cells. A column that holds no numbers is the user's own, by the same name.
    found
        By column, what the counts come to ``(n_cells,)``.
    whole
        bool ``(n_cells,)``: whose counts are all there, genes that were left out included.
    fractional
        Values may be fractions, which do not add up to the same float in every order; whole numbers do.
    """
    for name, numbers in found.items():
        if name not in obs.column_names or not _holds_numbers(obs[name].type):
            continue
        promised = obs[name].to_numpy()
        same = np.isclose(promised, numbers) if fractional else promised == numbers
        wrong = np.flatnonzero(whole & ~np.isnan(promised) & ~same)
        if len(wrong):
            yield Broken(name, wrong, promised, numbers)


def _holds_numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
