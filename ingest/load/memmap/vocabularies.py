"""What the columns of an archive stand for: genes, by whatever its columns of var are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.genes import Genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.memmap.features import VariableFeatureIndex

__all__ = ["genes_of"]

_IDS = ("feature_id", "var_feature_id", "gene_id", "gene_ids", "ensembl_id", "feature_name", "gene_symbol", "gene_name")
_NAMES = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "symbol")
_LENGTHS = ("feature_length", "gene_length")


def genes_of(var: VariableFeatureIndex) -> tuple[Genes, ...]:
    """Return the genes of each block of rows.

    Ids are the first column, of those that are usually called so and then of the others, that has a different text for
    every gene; where none has, they are numbers: ``0``, ``1``, ….
    """
    return tuple(_genes({name: np.asarray(block[name]) for name in block}) for block in var._feature_arr)


def _genes(columns: dict[str, Any]) -> Genes:
    n = len(next(iter(columns.values()), ()))
    ids = next((texts for name in _in_order(_IDS, columns) if (texts := _texts(columns[name], distinct=True))), None)
    if ids is None:
        ids = [str(number) for number in range(n)]
    names = next((texts for name in _NAMES if name in columns and (texts := _texts(columns[name]))), ids)
    lengths = next((columns[name] for name in _LENGTHS if name in columns), None)
    return Genes(tuple(ids), tuple(names), _whole(lengths, n))


def _in_order(known: Sequence[str], columns: dict[str, Any]) -> list[str]:
    return [name for name in known if name in columns] + [name for name in columns if name not in known]


def _texts(values: Any, *, distinct: bool = False) -> list[str] | None:
    found = values.tolist()
    if not found or not all(isinstance(value, str) for value in found):
        return None
    return None if distinct and len(set(found)) < len(found) else found


def _whole(lengths: Any, n: int) -> tuple[int, ...]:
    if lengths is None or lengths.dtype.kind not in "iuf":
        return (0,) * n
    with np.errstate(invalid="ignore"):
        return tuple(np.nan_to_num(lengths.astype(np.float64)).astype(np.int64).tolist())
