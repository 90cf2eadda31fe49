"""Everything of a file but the matrix an operation is about: copied as it is stored, or the rows and genes asked for.

Elements that only go along are copied object by object, compressed bytes and all. Tables are cut column by column, so
that no more than one column is in memory. Files of anndata 0.6 and 0.7 become today's: anndata reads their elements
and writes them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.encode.elements import DICT, encoding
from ingest.fetch.h5ad_matrix import describe_at
from ingest.fetch.h5ad_table import open_table
from ingest.fetch.h5ad_texts import read_whole
from ingest.stream.matrix.put import copy_object, put_matrix
from ingest.stream.matrix.source import describe_x
from ingest.stream.matrix.tables import check_table, put_frame, put_table, write_element

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.matrix.put import Target

__all__ = ["Selection", "carry"]

Array = np.ndarray[Any, Any]

_SPARSE = ("csr_matrix", "csc_matrix")
_MAPPINGS = ("layers", "obsm", "obsp", "uns", "varm", "varp")


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Rows and genes of the output, int64, in their order; None: all. And tables instead of the source's."""

    rows: Array | None = None
    genes: Array | None = None
    obs: pd.DataFrame | None = None
    var: pd.DataFrame | None = None
    uns: Mapping[str, Any] | None = None
    without: tuple[str, ...] = ()
    """Entries of uns that hold no longer."""
    drop_unused: bool = False
    """Whether categories that no row has any more go, and their colours in uns, as anndata has it."""


def carry(source: OpenH5ad, target: Target, about: Mapping[str, Any], selection: Selection | None = None) -> None:
    """Write all but X.

    Parameters
    ----------
    about
        Attributes of the root.

    Raises
    ------
    HostileFileError, NotCountsError
        An element breaks a rule.
    """
    chosen = selection or Selection()
    file = target.file
    for table in ("obs", "var"):
        check_table(source, table)
    file.attrs.update({**_root_attributes(source), **encoding("anndata", "0.1.0"), **about})
    kept = _put_tables(source, target, chosen)
    with source.reading("/"):
        names = [name for name in source.file if name not in ("X", "obs", "var")]
    for name in names:
        _put_member(source, target, name, chosen)
    for name in _MAPPINGS:
        if name not in file:
            file.create_group(name).attrs.update(DICT)
    _recolour(file, kept)
    if not isinstance(file["uns"], h5py.Group):
        raise source.error("uns", "is an array where entries belong", "unreadable")
    for key in chosen.without:
        file.pop(f"uns/{key}", None)
    for key, value in (chosen.uns or {}).items():
        write_element(file, f"uns/{key}", value)


def _root_attributes(source: OpenH5ad) -> dict[str, Any]:
    with source.reading("/"):
        return dict(source.file.attrs)


def _put_tables(source: OpenH5ad, target: Target, chosen: Selection) -> dict[str, Array]:
    """Write obs and var; return which categories are left, by column, where some are not."""
    kept: dict[str, dict[str, Array]] = {}
    tables = ("obs", chosen.obs, chosen.rows), ("var", chosen.var, chosen.genes)
    for name, given, lines in tables:
        if given is not None:
            kept[name] = put_frame(target.file, name, given, drop_unused=chosen.drop_unused)
        else:
            kept[name] = put_table(source, target.file, name, lines, drop_unused=chosen.drop_unused)
    # Of two columns of one name, colours are those of the cells.
    of_cells = open_table(source, "obs").columns
    return kept["obs"] | {column: places for column, places in kept["var"].items() if column not in of_cells}


def _put_member(source: OpenH5ad, target: Target, name: str, chosen: Selection) -> None:
    rows, genes = chosen.rows, chosen.genes
    if name == "layers":
        for key in _keys(source, name):
            _make_parent(target.file, f"layers/{key}")
            put_matrix(source, describe_x(source, f"layers/{key}"), target, rows=rows, columns=genes)
    elif name in ("obsm", "varm"):
        lines = rows if name == "obsm" else genes
        _put_aligned(source, target, name, lines, "obs" if name == "obsm" else "var")
    elif name in ("obsp", "varp"):
        lines = rows if name == "obsp" else genes
        for key in _keys(source, name):
            _put_pairs(source, target, f"{name}/{key}", lines, "obs" if name == "obsp" else "var")
    elif name in ("raw", "raw.X", "raw.var", "raw.varm"):
        _put_raw(source, target, name, rows)
    elif name == "uns" and not _is_todays(source, "uns"):
        _put_old(source, target, name)
    else:
        copy_object(source, name, target.file)


def _keys(source: OpenH5ad, name: str) -> list[str]:
    with source.reading(name):
        return list(source.file[name])


def _is_todays(source: OpenH5ad, path: str) -> bool:
    node = source.get(path)
    return node is not None and "encoding-type" in node.attrs


def _put_aligned(source: OpenH5ad, target: Target, name: str, lines: Array | None, table: str) -> None:
    if isinstance(source.get(name), h5py.Dataset):  # anndata 0.6: one compound array
        with source.reading(name):
            fields = source.file[name][()]
        for key in fields.dtype.names or ():
            values = fields[key]
            write_element(target.file, f"{name}/{key}", values if lines is None else values[lines])
        return
    for key in _keys(source, name):
        _put_one_aligned(source, target, f"{name}/{key}", lines, table)


def _put_one_aligned(source: OpenH5ad, target: Target, path: str, lines: Array | None, table: str) -> None:
    node: Any = source.get(path)
    kind = source.attribute(node, "encoding-type")
    if lines is None and kind is not None and kind != "dataframe":
        copy_object(source, path, target.file)
    elif kind == "dataframe":
        _make_parent(target.file, path)
        put_table(source, target.file, path, lines, drop_unused=False)
    elif kind in _SPARSE or (isinstance(node, h5py.Dataset) and node.ndim == 2 and node.dtype.kind in "biuf"):
        n = open_table(source, table).n_rows
        shape = tuple(source.attribute(node, "shape")) if kind in _SPARSE else node.shape
        _make_parent(target.file, path)
        put_matrix(source, describe_at(source, path, (n, int(shape[1]))), target, rows=lines)
    else:
        value = _read(source, path)
        write_element(target.file, path, value if lines is None else value[lines])


def _put_pairs(source: OpenH5ad, target: Target, path: str, lines: Array | None, table: str) -> None:
    n = open_table(source, table).n_rows
    _make_parent(target.file, path)
    put_matrix(source, describe_at(source, path, (n, n)), target, rows=lines, columns=lines)


def _make_parent(file: h5py.File, path: str) -> None:
    parent = path.rpartition("/")[0]
    if parent not in file:
        file.create_group(parent).attrs.update(DICT)


def _put_raw(source: OpenH5ad, target: Target, name: str, rows: Array | None) -> None:
    """Write raw: all of its genes, the rows asked for."""
    file = target.file
    if "raw" not in file:
        file.create_group("raw").attrs.update(encoding("raw", "0.1.0"))
        file.create_group("raw/varm").attrs.update(DICT)
    if name != "raw":
        part = name.removeprefix("raw.")
        if part == "X":
            put_matrix(source, describe_x(source, name), target, path="raw/X", rows=rows)
        elif part == "var":
            put_table(source, file, name, None, drop_unused=False, to="raw/var")
        return
    for key in _keys(source, "raw"):
        if key == "X":
            put_matrix(source, describe_x(source, "raw/X"), target, rows=rows)
        elif key == "var":
            put_table(source, file, "raw/var", None, drop_unused=False)
        elif key != "varm":
            copy_object(source, f"raw/{key}", file)
        elif _is_todays(source, "raw/varm"):
            del file["raw/varm"]
            copy_object(source, "raw/varm", file)


def _put_old(source: OpenH5ad, target: Target, name: str) -> None:
    """Write uns of anndata 0.7 and before, but for the labels that stood there for columns of obs and var."""
    tables = [open_table(source, table) for table in ("obs", "var")]
    labels = {f"{column}_categories" for table in tables for column in table.columns}
    for key in _keys(source, name):
        if key not in labels:
            write_element(target.file, f"{name}/{key}", _read(source, f"{name}/{key}"))


def _read(source: OpenH5ad, path: str) -> Any:
    from anndata.io import read_elem

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements that do not say what they are
        return read_whole(source, path, lambda: read_elem(source.file[path]))


def _recolour(file: h5py.File, kept: Mapping[str, Array]) -> None:
    """Leave the colours of categories that are left, as anndata does."""
    from anndata.io import read_elem

    for column, places in kept.items():
        path = f"uns/{column}_colors"
        if path in file and isinstance(file[path], h5py.Dataset) and file[path].ndim == 1:
            colours = read_elem(file[path])
            if not len(places) or places.max() < len(colours):
                write_element(file, path, colours[places])
