"""X that is none: types, extents and pointers wrong in every way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.testing.hostile.changes import attribute, cast, made, put, remade, remove, several, without_attribute
from ingest.testing.hostile.good import N_CELLS, N_GENES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MATRIX"]

Array = np.ndarray[Any, Any]
_PAIR = np.dtype([("a", "<f4"), ("b", "<i4")])


def _pairs(old: Array) -> Array:
    found = np.zeros(len(old), _PAIR)
    found["a"] = old
    return found


def _ragged(group: h5py.Group, name: str) -> None:
    dataset = group.create_dataset(name, (200,), h5py.vlen_dtype(np.float32))
    dataset[0] = np.ones(3, np.float32)


def _enum(group: h5py.Group, name: str) -> None:
    kind = h5py.enum_dtype({"none": 0, "one": 1, "many": 7}, basetype="i4")
    group.create_dataset(name, data=np.ones(200, np.int32), dtype=kind)


def _references(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, data=np.array([group.ref] * 200, object), dtype=h5py.ref_dtype)


def _opaque(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, data=np.zeros(200, "V4"))


def _array_type(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (200,), np.dtype((np.float32, (3,))))


def _named_type(group: h5py.Group, name: str) -> None:
    group[name] = np.dtype(np.float32)


def _no_space(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, data=h5py.Empty("f4"))


def _zero_length(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (0,), np.float32)


def _dense(values: Array) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["X"]
        file.create_dataset("X", data=values).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    return change


def _as_text(old: Array) -> Array:
    return np.array([str(int(value)).encode() for value in old], "S8")


MATRIX: dict[str, Callable[[h5py.File], None]] = {
    # -- indptr
    "indptr-float": cast("X/indptr", np.float64),
    "indptr-nan": remade("X/indptr", lambda old: np.where(np.arange(len(old)) == 3, np.nan, old)),
    "indptr-2d": remade("X/indptr", lambda old: old.reshape(1, -1)),
    "indptr-scalar": remade("X/indptr", lambda old: old[-1]),
    "indptr-empty": remade("X/indptr", lambda old: old[:0]),
    "indptr-uint64-top": remade(
        "X/indptr", lambda old: np.where(np.arange(len(old)) == 4, 2**64 - 1, old.astype("u8"))
    ),
    "indptr-int64-top": remade("X/indptr", lambda old: np.where(np.arange(len(old)) == 4, 2**63 - 1, old.astype("i8"))),
    "indptr-int64-bottom": remade(
        "X/indptr", lambda old: np.where(np.arange(len(old)) == 4, -(2**63), old.astype("i8"))
    ),
    "indptr-int8-wraps": cast("X/indptr", np.int8),
    "indptr-bool": cast("X/indptr", np.bool_),
    "indptr-text": remade("X/indptr", _as_text),
    "indptr-compound": remade("X/indptr", _pairs),
    "indptr-long": remade("X/indptr", lambda old: np.concatenate([old, old[-1:]])),
    "indptr-all-zero": remade("X/indptr", np.zeros_like),
    "indptr-missing": remove("X/indptr"),
    "indptr-group": made("X/indptr", lambda group, name: group.create_group(name)),
    "indptr-named-type": made("X/indptr", _named_type),
    "indptr-no-space": made("X/indptr", _no_space),
    # -- indices
    "indices-2d": remade("X/indices", lambda old: old.reshape(1, -1)),
    "indices-empty": remade("X/indices", lambda old: old[:0]),
    "indices-bool": cast("X/indices", np.bool_),
    "indices-uint64-top": remade(
        "X/indices", lambda old: np.where(np.arange(len(old)) == 5, 2**64 - 1, old.astype("u8"))
    ),
    "indices-uint32-top": remade(
        "X/indices", lambda old: np.where(np.arange(len(old)) == 5, 2**32 - 1, old.astype("u4"))
    ),
    "indices-text": remade("X/indices", _as_text),
    "indices-compound": remade("X/indices", _pairs),
    "indices-missing": remove("X/indices"),
    "indices-group": made("X/indices", lambda group, name: group.create_group(name)),
    "indices-all-negative": remade("X/indices", lambda old: -1 - old),
    # -- data
    "data-complex": cast("X/data", np.complex64),
    "data-2d": remade("X/data", lambda old: old.reshape(1, -1)),
    "data-empty": remade("X/data", lambda old: old[:0]),
    "data-compound": remade("X/data", _pairs),
    "data-ragged": made("X/data", _ragged),
    "data-enum": made("X/data", _enum),
    "data-opaque": made("X/data", _opaque),
    "data-references": made("X/data", _references),
    "data-array-type": made("X/data", _array_type),
    "data-named-type": made("X/data", _named_type),
    "data-no-space": made("X/data", _no_space),
    "data-missing": remove("X/data"),
    "data-group": made("X/data", lambda group, name: group.create_group(name)),
    "data-long-text": remade("X/data", lambda old: [str(value) for value in old], dtype=h5py.string_dtype()),
    "data-beyond-float32": remade(
        "X/data", lambda old: np.where(np.arange(len(old)) == 3, 2**24 + 1, old.astype("i8"))
    ),
    "data-int64-top": remade("X/data", lambda old: np.where(np.arange(len(old)) == 3, 2**63 - 1, old.astype("i8"))),
    "data-denormal": put("X/data", 3, 1e-45),
    "data-largest-float": put("X/data", 3, 3.4e38),
    "data-half": cast("X/data", np.float16),
    "data-big-endian": cast("X/data", ">f4"),
    "data-long-double": cast("X/data", np.longdouble),
    "data-bool": cast("X/data", np.bool_),
    # -- the matrix
    "x-empty-group": several(remove("X/data", "X/indices", "X/indptr")),
    "x-scalar": _dense(np.array(3, np.float32)),
    "x-one-dimension": _dense(np.ones(N_CELLS, np.float32)),
    "x-three-dimensions": _dense(np.ones((N_CELLS, N_GENES, 2), np.float32)),
    "x-transposed": _dense(np.ones((N_GENES, N_CELLS), np.float32)),
    "x-text": _dense(np.full((N_CELLS, N_GENES), b"1", "S1")),
    "x-compound": _dense(np.zeros((N_CELLS, N_GENES), _PAIR)),
    "x-complex": _dense(np.ones((N_CELLS, N_GENES), np.complex64)),
    "x-no-columns": _dense(np.ones((N_CELLS, 0), np.float32)),
    "x-named-type": made("X", lambda file, name: file.__setitem__(name, np.dtype("f4"))),
    "x-no-space": made("X", _no_space),
    "x-zero-length": made("X", _zero_length),
    "x-said-to-be-csc": attribute("X", "encoding-type", "csc_matrix"),
    "x-said-to-be-dense": attribute("X", "encoding-type", "array"),
    "x-said-to-be-a-table": attribute("X", "encoding-type", "dataframe"),
    "x-encoding-number": attribute("X", "encoding-type", 7),
    "x-encoding-list": attribute("X", "encoding-type", ["csr_matrix", "csc_matrix"]),
    "x-encoding-bytes": attribute("X", "encoding-type", np.bytes_(b"csr_matrix")),
    "x-encoding-missing": without_attribute("X", "encoding-type"),
    "x-version-new": attribute("X", "encoding-version", "99.0"),
    "x-version-number": attribute("X", "encoding-version", 0.1),
    "x-shape-missing": without_attribute("X", "shape"),
    "x-shape-text": attribute("X", "shape", "24 x 40"),
    "x-shape-float": attribute("X", "shape", np.array([24.5, 40.0])),
    "x-shape-nan": attribute("X", "shape", np.array([np.nan, 40.0])),
    "x-shape-one": attribute("X", "shape", np.array([24])),
    "x-shape-three": attribute("X", "shape", np.array([24, 40, 1])),
    "x-shape-swapped": attribute("X", "shape", np.array([40, 24])),
    "x-shape-uint64-top": attribute("X", "shape", np.array([2**64 - 1, 40], "u8")),
    "x-shape-empty": attribute("X", "shape", h5py.Empty("i8")),
    "raw-without-var": lambda file: file.copy("X", file.create_group("raw"), "X"),
    "raw-of-other-length": lambda file: (
        file.copy("X", file.create_group("raw"), "X"),
        file.copy("obs", file["raw"], "var"),
    )[0],
    "raw-dataset": lambda file: file.create_dataset("raw", data=np.ones(3)),
    "layer-wrong": lambda file: file.require_group("layers").create_dataset("counts", data=np.ones((3, 3))),
}
