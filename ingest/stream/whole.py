"""An examined h5ad file as anndata has it: backed by the file, or in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import anndata
import h5py

from ingest.fetch.h5ad_matrix import describe_matrix
from ingest.stream.elements import categories_beside, read_element, read_matrix, read_table

if TYPE_CHECKING:
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["backed_by", "in_memory"]

_RAW = {"raw": ("raw/X", "raw/var", "raw/varm"), "raw.X": ("raw.X", "raw.var", "raw.varm")}
"""Where raw lies: in current files, and as anndata 0.6 had it."""


def in_memory(opened: OpenH5ad) -> anndata.AnnData:
    """Return all of a file, as ``anndata.read_h5ad`` does.

    Raises
    ------
    HostileFileError, NotCountsError
        It is damaged, or a matrix holds no numbers or points outside of itself.
    """
    parts = _parts(opened)
    raw = {"X": read_matrix(opened, _raw_places(opened)[0]), **parts.pop("raw")} if "raw" in parts else None
    matrix = read_matrix(opened, "X") if "X" in opened.file else None
    with opened.reading("/"):
        return anndata.AnnData(matrix, raw=raw, **parts)


def backed_by(opened: OpenH5ad, mode: Literal["r", "r+"] = "r") -> anndata.AnnData:
    """Return a file whose matrices are read when they are wanted, as ``anndata.read_h5ad(backed=mode)`` does.

    X and raw stay on disk; tables, layers and all else are in memory, as anndata has it. Of a remote file X is read by
    ranges, and lives as long as `opened` is open; raw is in memory, and ``isbacked`` False.

    Parameters
    ----------
    mode
        Of a local file.

    Raises
    ------
    HostileFileError, NotCountsError
        It is damaged.
    SourceChangedError
        Somebody replaced the file meanwhile.
    """
    for path in ("X", *_raw_places(opened)[:1]):
        if path in opened.file:
            describe_matrix(opened, path)
    parts = _parts(opened)
    if opened.source.path is None:
        return _by_ranges(opened, parts)
    raw = parts.pop("raw", None)
    with opened.reading("/"):
        cells = anndata.AnnData(filename=str(opened.source.path), filemode=mode, raw=raw, **parts)
    if mode == "r":  # opening it for changes is a change
        opened.check_unchanged()
    return cells


def _by_ranges(opened: OpenH5ad, parts: dict[str, Any]) -> anndata.AnnData:
    raw = {"X": read_matrix(opened, _raw_places(opened)[0]), **parts.pop("raw")} if "raw" in parts else None
    node = opened.get("X")
    with opened.reading("/"):
        matrix = anndata.io.sparse_dataset(node) if isinstance(node, h5py.Group) else node
        return anndata.AnnData(matrix, raw=raw, **parts)


def _parts(opened: OpenH5ad) -> dict[str, Any]:
    """Return all but X and the raw matrix, by the names of AnnData's parameters."""
    parts: dict[str, Any] = {name: read_table(opened, name) for name in ("obs", "var")}
    for name in ("uns", "obsm", "varm", "varp"):
        if name in opened.file:
            parts[name] = read_element(opened, name)
    for name in ("layers", "obsp"):
        node = opened.get(name)
        if isinstance(node, h5py.Group):
            parts[name] = {key: read_matrix(opened, f"{name}/{key}") for key in node}
    beside = categories_beside(opened)
    if beside and isinstance(parts.get("uns"), dict):  # they are in the tables now
        parts["uns"] = {key: value for key, value in parts["uns"].items() if key not in beside}
    places = _raw_places(opened)
    if places and places[0] in opened.file:
        parts["raw"] = {"var": read_table(opened, places[1])}
        if places[2] in opened.file:
            parts["raw"]["varm"] = read_element(opened, places[2])
    return parts


def _raw_places(opened: OpenH5ad) -> tuple[str, ...]:
    return next((places for name, places in _RAW.items() if name in opened.file), ())
