"""What several archives become one after the other: types and features; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.load.memmap.archive import ArchiveSpec
from ingest.load.memmap.dtypes import determine_dtype, family_of, smallest_uint_dtype
from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex
from ingest.load.memmap.names import FLOAT_ORDER, INT_ORDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.memmap.revise import Piece

__all__ = ["concatenated_features", "concatenated_spec"]


def concatenated_spec(first: Piece, others: Sequence[Piece]) -> ArchiveSpec:
    """Return sizes and types of archives one after the other: each type the widest of theirs.

    Raises
    ------
    ValueError
        Some have whole numbers and some have fractions; it names both.
    """
    pieces = [first, *others]
    _check_families(pieces)
    n_entries = sum(piece.spec.n_entries for piece in pieces)
    return ArchiveSpec(
        sum(piece.spec.n_rows for piece in pieces),
        n_entries,
        determine_dtype([piece.spec.data for piece in pieces]),
        determine_dtype([piece.spec.columns for piece in pieces]),
        smallest_uint_dtype(n_entries),
    )


def _check_families(pieces: Sequence[Piece]) -> None:
    dtypes = [piece.spec.data for piece in pieces]
    names = {
        id(order): ", ".join(p.folder.name for p in pieces if family_of(p.spec.data) is order)
        for order in (FLOAT_ORDER, INT_ORDER)
    }
    if all(names.values()):
        raise ValueError(
            f"Cannot merge datasets with a mix of int and float dtypes for data: {dtypes}; "
            f"Float Data datasets: {names[id(FLOAT_ORDER)]}; Int Data datasets: {names[id(INT_ORDER)]} "
            "Cast all of the datasets to either int dtypes or to float dtypes before concatenation. "
            'For example for a dataset with data_dtype "uint8", you can cast it to "float32" with: '
            'ds = load(data_set_path) ds.cast_data_to_dtype("float32") '
            "This will allow downscaling of the data dtype so it is advisable to examine the data if downcasting."
        )


def concatenated_features(
    parts: Sequence[tuple[VariableFeatureIndex, ObservedFeatureIndex]],
) -> tuple[VariableFeatureIndex, ObservedFeatureIndex]:
    """Return the features of cells one after the other; the parts stay as they are."""
    var, obs = VariableFeatureIndex(), ObservedFeatureIndex()
    for of_var, of_obs in parts:
        var.concat(of_var)
        obs.concat(of_obs)
    return var, obs
