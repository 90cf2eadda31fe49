"""What the files of a dataset share, made once and copied: the gene table, the groups, their attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.encode.elements import (
    DICT,
    encoding,
    is_short,
    outline_frame,
    outline_numbers,
    write_numbers,
    write_texts,
)
from ingest.encode.h5_file import H5File

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.digest import Levels
    from ingest.encode.filters import Filter
    from ingest.genes import Genes

__all__ = ["Outlines"]

Array = np.ndarray[Any, Any]

_GROUPS = ("layers", "obsm", "obsp", "uns", "varm", "varp")
_MOST = 4
"""Outlines remembered: a dataset's chunks have all the same number of cells, but for those around what was left out."""


class Outlines:
    """Make files without rows, and remember the last few.

    Parameters
    ----------
    how
        To compress the gene table; None: not at all.
    about
        Attributes of the root: how values were made of counts, where they are not counts.
    """

    def __init__(self, how: Filter | None, about: Mapping[str, Any]) -> None:
        self._how, self._about = how, about
        self._table: tuple[Genes, bytes] | None = None
        self._known: dict[tuple[Any, ...], tuple[bytes, bytes, Mapping[str, int]]] = {}
        """Cells, columns and types of numbers -> the gene table, and what was made from it."""

    def of(
        self, genes: Genes, n_cells: int, columns: Mapping[str, Levels | Array], numbers: Mapping[str, Array]
    ) -> tuple[bytes, Mapping[str, int]]:
        """Return a file with the gene table and the groups of `n_cells` with such columns of obs, and room for numbers.

        Parameters
        ----------
        numbers
            Of obs, `ingest.encode.elements.frame_numbers`.

        Returns
        -------
        tuple
            The file; where in it the short ones of `numbers` have their place.
        """
        table = self._table_of(genes)
        kinds = tuple((place, values.dtype if is_short(values) else None) for place, values in numbers.items())
        key = (n_cells, tuple(columns), kinds)
        beside, known, places = self._known.get(key, (None, b"", {}))
        if beside is not table:
            with H5File(table) as file:
                shape = np.array([n_cells, len(genes)], np.int64)
                file.group("X", {**encoding("csr_matrix", "0.1.0"), "shape": shape})
                outline_frame(file, "obs", columns)
                places = outline_numbers(file, "obs", numbers)
                known = bytes(file.image())
            self._known = {**dict(list(self._known.items())[1 - _MOST :]), key: (table, known, places)}
        return known, places

    def _table_of(self, genes: Genes) -> bytes:
        held = self._table  # read once: another thread may replace it
        if held is None or not (held[0] is genes or held[0] == genes):
            held = self._table = genes, self._make_table(genes)
        return held[1]

    def _make_table(self, genes: Genes) -> bytes:
        lengths = np.array(genes.lengths, np.int64)
        with H5File() as file:
            file.describe({**encoding("anndata", "0.1.0"), **self._about})
            for name in _GROUPS:
                file.group(name, DICT)
            if self._about:
                file.group("uns/log1p", DICT)  # where scanpy looks before it takes the logarithm again
            outline_frame(file, "var", dict.fromkeys(("feature_id", "feature_name", "feature_length"), lengths))
            write_texts(file, "var/_index", genes.ids, self._how)
            file.link("var/_index", "var/feature_id")
            write_texts(file, "var/feature_name", genes.names, self._how)
            write_numbers(file, "var/feature_length", lengths, self._how)
            return bytes(file.image())
