"""Find the matrix that holds the counts, and describe it, reading no more than a sample of its values.

Rules of structure, each the ``kind`` of the error: ``not-h5ad``, ``shape``, ``indptr-length``, ``entries-length``,
``index-type``, ``value-type``, ``decoded-size``. What indptr and indices hold is checked where they are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np

from ingest.errors import ConfigError, NotCountsError
from ingest.fetch.h5ad_table import open_table
from ingest.validate import value_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["MatrixRef", "describe_at", "describe_matrix", "describe_pairs", "find_counts"]

_SAMPLE = 4096
_SPARSE: dict[str, Literal["csr", "csc"]] = {"csr": "csr", "csr_matrix": "csr", "csc": "csc", "csc_matrix": "csc"}
_COUNT_LAYERS = ("counts", "count", "raw_counts", "raw_count", "umi_counts", "umis", "umi", "raw")


@dataclass(frozen=True, slots=True)
class MatrixRef:
    """One matrix of an h5ad file."""

    path: str
    """Where it lies: ``X``, ``raw/X``, ``raw.X`` (anndata 0.6), ``layers/<name>``."""
    var_path: str
    """The table of its columns: ``var``, ``raw/var`` or ``raw.var``."""
    layout: Literal["csr", "csc", "dense"]
    shape: tuple[int, int]
    """``(n_obs, n_vars)``; agrees with obs and the table of columns."""
    dtype: str
    """Numpy name of the stored values' type."""
    nnz: int
    """Stored entries; rows x columns when dense."""
    index_dtype: str
    """Numpy name of the indices' type; empty when dense."""
    chunk_rows: int
    """Rows decoded together: HDF5 chunk rows when dense, else 1."""
    stored_bytes: int
    """Bytes as stored; for a compressed remote matrix its share of the file, since asking would read all of it."""
    integer: bool
    """Whether the sampled values are whole and not negative."""


def find_counts(file: OpenH5ad, layer: str | None = None, *, allow_noninteger: bool = False) -> MatrixRef:
    """Return the matrix of counts: the one named, else X, raw or a layer, whichever holds whole numbers first.

    Parameters
    ----------
    layer
        ``X``, ``raw``, ``raw.X``, ``raw/X`` or a layer's name.
    allow_noninteger
        Take what is named, or else X, even if its values are fractional.

    Raises
    ------
    NotCountsError
        ``no-counts``: no matrix holds whole numbers; ``ambiguous-counts``: several layers do.
    ConfigError
        ``unknown-layer``: `layer` is none of those found.
    HostileFileError
        The structure of X or of the matrix named breaks a rule.
    """
    places = list(_places(file))
    if not places:
        raise file.error("/", "HDF5, but no h5ad: it holds no X, raw or layers", "not-h5ad")
    if layer is not None:
        return _named(file, layer, places, allow_noninteger=allow_noninteger)
    found = _described(file, places)
    for path, _ in places:
        matrix = found.get(path)
        if not path.startswith("layers/") and matrix is not None and matrix.integer and matrix.nnz:
            return matrix
    layers = [ref for path, ref in found.items() if path.startswith("layers/") and ref.integer and ref.nnz]
    if layers:
        return _choose(file, layers)
    empty = next((matrix for matrix in found.values() if matrix.integer), None)
    if empty is not None:
        return empty
    if allow_noninteger and found:
        return next(iter(found.values()))
    raise _no_counts(file, found, places)


def _places(file: OpenH5ad) -> Iterator[tuple[str, str]]:
    """Yield (matrix, table of its columns) in order of preference."""
    for path, var_path in (("X", "var"), ("raw/X", "raw/var"), ("raw.X", "raw.var")):
        if file.get(path) is not None:
            yield path, var_path
    layers = file.get("layers")
    if isinstance(layers, h5py.Group):
        with file.reading("layers"):
            names = list(layers)
        yield from ((f"layers/{name}", "var") for name in names)


def _described(file: OpenH5ad, places: list[tuple[str, str]]) -> dict[str, MatrixRef]:
    found = {}
    for path, var_path in places:
        try:
            found[path] = _describe(file, path, var_path)
        except NotCountsError:
            continue  # text, complex numbers: not counts, and no harm
        except Exception:
            if not path.startswith("layers/"):
                raise  # a damaged layer that nobody asked for is no reason to refuse good counts
    return found


def _choose(file: OpenH5ad, layers: list[MatrixRef]) -> MatrixRef:
    names = [matrix.path.removeprefix("layers/") for matrix in layers]
    for wanted in _COUNT_LAYERS:
        for name, matrix in zip(names, layers, strict=True):
            if name.lower() == wanted:
                return matrix
    if len(layers) == 1:
        return layers[0]
    raise NotCountsError(
        f"{file.name}: several layers hold integers ({', '.join(names)}); name one with --layer",
        kind="ambiguous-counts",
        source=str(file.source),
    )


def _named(file: OpenH5ad, layer: str, places: list[tuple[str, str]], *, allow_noninteger: bool) -> MatrixRef:
    known = dict(places)
    raw = ("raw/X", "raw.X")
    # A layer may itself be called X or raw: those names mean the matrices, unless there is only the layer.
    aliases = (*raw, "layers/raw") if layer in ("raw", *raw) else (layer, f"layers/{layer}")
    path = next((alias for alias in aliases if alias in known), None)
    if path is None:
        raise ConfigError(
            f"{file.name}: no layer {layer!r}",
            kind="unknown-layer",
            hint=f"it holds {', '.join(known)}",
            source=str(file.source),
        )
    matrix = _describe(file, path, known[path])
    if not (matrix.integer or allow_noninteger):
        raise _no_counts(file, {path: matrix}, [(path, known[path])], named=layer)
    return matrix


def _no_counts(
    file: OpenH5ad, found: dict[str, MatrixRef], places: list[tuple[str, str]], named: str | None = None
) -> NotCountsError:
    facts = [
        f"{path} {found[path].dtype} {_sample_fault(file, found[path])}" if path in found else f"{path} no numbers"
        for path, _ in places
    ]
    if named is None:
        there = {path.replace("/", ".") for path, _ in places}
        facts += [f"{name} missing" for name in ("X", "raw.X") if name not in there]
        what = f"layers hold no integer counts ({', '.join(facts)}); name one with --layer"
    else:
        what = f"layer {named} holds no integer counts ({facts[0]}); name another with --layer"
    return NotCountsError(
        f"{file.name}: {what} or allow with --allow-noninteger", kind="no-counts", source=str(file.source)
    )


def describe_matrix(file: OpenH5ad, path: str) -> MatrixRef:
    """Describe the matrix at `path` as it stands in a survey.

    Raises
    ------
    HostileFileError
        Its structure breaks a rule.
    NotCountsError
        ``value-type``: it holds no numbers.
    """
    return _describe(file, path, {"raw/X": "raw/var", "raw.X": "raw.var"}.get(path, "var"))


def describe_pairs(file: OpenH5ad, path: str) -> MatrixRef | None:
    """Describe the matrix of cells by cells at `path`; its values are not looked at.

    Returns
    -------
    MatrixRef
        None where it is dense or a table.

    Raises
    ------
    HostileFileError
        Its structure breaks a rule.
    NotCountsError
        ``value-type``: it holds no numbers.
    """
    node = file.get(path)
    if not isinstance(node, h5py.Group) or _sparse_name(file, node) not in _SPARSE:
        return None
    n_obs = open_table(file, "obs").n_rows
    with file.reading(path):
        return _describe_sparse(file, path, node, (n_obs, n_obs))


def describe_at(file: OpenH5ad, path: str, shape: tuple[int, int]) -> MatrixRef:
    """Describe the matrix at `path`, which has `shape`; its values are not looked at (``integer`` is False).

    Raises
    ------
    HostileFileError
        Its structure breaks a rule.
    NotCountsError
        ``value-type``: it holds no numbers.
    """
    node = file.get(path)
    with file.reading(path):
        if isinstance(node, h5py.Dataset):
            return _describe_dense(file, path, shape)
        if isinstance(node, h5py.Group):
            return _describe_sparse(file, path, node, shape)
        raise file.error(path, "is missing", "not-h5ad")


def _describe(file: OpenH5ad, path: str, var_path: str) -> MatrixRef:
    shape = (open_table(file, "obs").n_rows, open_table(file, var_path).n_rows)
    matrix = describe_at(file, path, shape)
    return replace(matrix, var_path=var_path, integer=_sample_fault(file, matrix) is None)


def _describe_dense(file: OpenH5ad, path: str, shape: tuple[int, int]) -> MatrixRef:
    dataset = file.dataset(path)
    _check_shape(file, path, dataset.shape, shape)
    _check_values(file, path, dataset.dtype)
    rows = dataset.chunks[0] if dataset.chunks else 1
    stored = _stored_bytes(file, dataset)
    return MatrixRef(
        path, "", "dense", shape, dataset.dtype.name, math.prod(shape), "", min(rows, max(shape[0], 1)), stored, False
    )


def _describe_sparse(file: OpenH5ad, path: str, group: h5py.Group, shape: tuple[int, int]) -> MatrixRef:
    layout = _sparse_layout(file, path, group)
    declared = file.attribute(group, "shape")
    _check_shape(file, path, file.attribute(group, "h5sparse_shape") if declared is None else declared, shape)
    data, indices, indptr = (file.dataset(f"{path}/{part}") for part in ("data", "indices", "indptr"))
    if any(part.ndim != 1 for part in (data, indices, indptr)):
        raise file.error(path, "data, indices and indptr have more than one dimension", "shape")
    major = shape[0] if layout == "csr" else shape[1]
    if len(indptr) != major + 1:
        raise file.error(f"{path}/indptr", f"{len(indptr):,} pointers where {major + 1:,} belong", "indptr-length")
    if len(data) != len(indices):
        raise file.error(path, f"{len(data):,} values for {len(indices):,} indices", "entries-length")
    if len(data) > math.prod(shape):
        raise file.error(path, f"{len(data):,} entries in {shape[0]:,} x {shape[1]:,} places", "decoded-size")
    for part in (indices, indptr):
        if part.dtype.kind not in "iu":
            raise file.error(part.name.lstrip("/"), f"indices of type {part.dtype}", "index-type")
    _check_values(file, f"{path}/data", data.dtype)
    stored = sum(_stored_bytes(file, part) for part in (data, indices, indptr))
    return MatrixRef(path, "", layout, shape, data.dtype.name, len(data), indices.dtype.name, 1, stored, False)


def _sparse_layout(file: OpenH5ad, path: str, group: h5py.Group) -> Literal["csr", "csc"]:
    name = _sparse_name(file, group)
    if name in _SPARSE:
        return _SPARSE[name]
    raise file.error(path, f"is no matrix (encoding {name!r})", "not-h5ad")


def _sparse_name(file: OpenH5ad, group: h5py.Group) -> Any:
    declared = file.attribute(group, "encoding-type")
    name = declared if declared is not None else file.attribute(group, "h5sparse_format")
    return name if isinstance(name, str) else None


def _check_shape(file: OpenH5ad, path: str, declared: Any, expected: tuple[int, int]) -> None:
    found = tuple(int(size) for size in np.ravel(declared)) if declared is not None else ()
    if found != expected:
        message = f"declares shape {found} where obs and var have {expected[0]:,} and {expected[1]:,} rows"
        raise file.error(path, message, "shape")


def _check_values(file: OpenH5ad, path: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise NotCountsError(
            f"{file.name}: {path}: values of type {dtype} are no counts", kind="value-type", source=str(file.source)
        )


def _stored_bytes(file: OpenH5ad, dataset: h5py.Dataset) -> int:
    if dataset.chunks is None or not file.is_remote:
        return int(dataset.id.get_storage_size())
    return file.size_bytes * int(dataset.nbytes) // max(file.declared_bytes, 1)


def _sample_fault(file: OpenH5ad, matrix: MatrixRef) -> str | None:
    """Return what is wrong with the first sampled value that is no count, None when all are."""
    if np.dtype(matrix.dtype).kind in "bu":
        return None
    dense = matrix.layout == "dense"
    dataset = file.dataset(matrix.path if dense else f"{matrix.path}/data")
    length = len(dataset)
    step = min(length, max(1, _SAMPLE // max(matrix.shape[1], 1)) if dense else _SAMPLE)
    for start in sorted({0, (length - step) // 2, length - step}):
        with file.reading(matrix.path):
            values = np.ravel(dataset[start : start + step])
        wrong = np.flatnonzero(~((values >= 0) & (values == np.floor(values)) & np.isfinite(values)))
        if len(wrong):
            return value_fault(values[wrong[0]].item())
    return None
