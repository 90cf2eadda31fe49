"""A corpus of hostile and broken h5ad files, one rule broken in each."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from ingest.testing.h5ad_bombs import bombs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ACCEPTED", "HostileFile", "hostile_files"]

ACCEPTED = "unsorted-accepted"
"""Rule of the one file that must be read: its indices are unsorted, so they are sorted and the fact recorded."""

_N_CELLS, _N_GENES = 24, 40
_BLOSC = 32001  # registered with the HDF Group, built into no HDF5 library


class HostileFile(NamedTuple):
    """One file of the corpus."""

    path: Path
    """The file; what it points at, where it does, lies beside it."""
    rule: str
    """The rule it breaks, kebab-case; several files may break one rule."""


def hostile_files(
    folder: Path, *, layout: Literal["csr", "csc"] = "csr", bomb_bytes: int = 1 << 30
) -> dict[str, HostileFile]:
    """Write the corpus into `folder` and return it by name.

    Every file but those that are no h5ad at all is a good one of 24 cells x 40 genes with a single thing changed,
    so that a reader can refuse it for that one reason only. Some break a second rule that a reader may well meet
    first: ``huge-shape`` and ``negative-shape`` contradict obs and var, ``bomb-entries`` has more entries than places.

    Parameters
    ----------
    folder
        Existing, empty folder. ``good.h5ad``, the file before its change, stays in it.
    layout
        How the matrix lies; the few dense files of the corpus are the same in either.
    bomb_bytes
        Decoded size of each compression bomb, a multiple of 64 MiB; on disk they take a thousandth of it.
    """
    good = folder / "good.h5ad"
    _write_good(good, layout)
    (folder / "secret.h5").write_bytes(good.read_bytes())
    (folder / "secret.bin").write_bytes(bytes(range(256)) * 64)
    corpus = {}
    for name, (rule, change) in {**_MUTATIONS, **bombs(bomb_bytes)}.items():
        path = folder / f"{name}.h5ad"
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        corpus[name] = HostileFile(path, rule)
    for name, (rule, content) in _broken_bytes(good.read_bytes()).items():
        path = folder / f"{name}.h5ad"
        path.write_bytes(content)
        corpus[name] = HostileFile(path, rule)
    return corpus


def _write_good(path: Path, layout: Literal["csr", "csc"]) -> None:
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.8, (_N_CELLS, _N_GENES)).astype(np.float32)
    dense[:, 0] = np.maximum(dense[:, 0], 1)  # two entries at least in every row and the first column,
    dense[:, -1] = np.maximum(dense[:, -1], 1)  # for the mutations
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(rng.choice(["B cell", "T cell"], _N_CELLS)), "score": rng.random(_N_CELLS)},
        index=[f"AAAC{number:04d}-1" for number in range(_N_CELLS)],
    )
    var = pd.DataFrame(
        {"feature_name": [f"GENE{number}" for number in range(_N_GENES)]},
        index=[f"ENSG{number:011d}" for number in range(1, _N_GENES + 1)],
    )
    anndata.AnnData((sparse.csr_matrix if layout == "csr" else sparse.csc_matrix)(dense), obs=obs, var=var).write_h5ad(
        path
    )


def _set(name: str, position: Any, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][position] = value

    return change


def _replace(name: str, values: Callable[[np.ndarray[Any, Any]], Any], **options: Any) -> Callable[[h5py.File], None]:
    """Write `values` of what stands at `name` in its place, attributes kept."""

    def change(file: h5py.File) -> None:
        old, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=values(old), **options).attrs.update(attributes)

    return change


def _external_link(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.pop(name, None)
        file[name] = h5py.ExternalLink("secret.h5", "X/data")

    return change


def _external_storage(file: h5py.File) -> None:
    shape = file["X/data"].shape
    del file["X/data"]
    outside = str(Path(file.filename).with_name("secret.bin"))
    file["X"].create_dataset("data", shape, np.float32, external=[(outside, 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File) -> None:
    shape = file["X/data"].shape
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "X/data", shape)
    del file["X/data"]
    file["X"].create_virtual_dataset("data", layout)


def _huge_dense(file: h5py.File) -> None:
    n_cells, n_genes = 1_500_000_000, 1_500_000
    for name in ("X", "obs/_index", "var/_index"):
        del file[name]
    matrix = file.create_dataset("X", (n_cells, n_genes), np.float32, chunks=(1024, 1024))
    matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for name, length in (("obs/_index", n_cells), ("var/_index", n_genes)):
        file.create_dataset(name, (length,), h5py.string_dtype(), chunks=(4096,))


def _huge_indptr(file: h5py.File) -> None:
    del file["X/indptr"]
    file["X"].create_dataset("indptr", (1 << 50,), np.int64, chunks=(1 << 16,))


def _link_cycle(file: h5py.File) -> None:
    file["uns/loop"] = file["uns"]


def _soft_cycle(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.SoftLink("/X")


def _swap_first_two(file: h5py.File) -> None:
    for name in ("X/indices", "X/data"):
        first, second = file[name][:2]
        file[name][:2] = [second, first]


def _damaged_chunk(file: h5py.File) -> None:
    length = file["X/data"].shape
    del file["X/data"]
    data = file["X"].create_dataset("data", length, np.float32, chunks=length, compression="gzip")
    packed = bytearray(zlib.compress(np.ones(length, np.float32).tobytes()))
    packed[len(packed) // 2] ^= 0xFF
    data.id.write_direct_chunk((0,), bytes(packed))


def _dense(value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = np.ones((_N_CELLS, _N_GENES), np.float32)
        values[7, 11] = value
        del file["X"]
        file.create_dataset("X", data=values).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    return change


def _missing_filter(file: h5py.File) -> None:
    values = file["X/data"][()]
    del file["X/data"]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(values.shape)
    creation.set_filter(_BLOSC, h5py.h5z.FLAG_OPTIONAL)
    space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.py_create(values.dtype)
    dataset = h5py.h5d.create(file["X"].id, b"data", kind, space, dcpl=creation)
    dataset.write_direct_chunk((0,), values.tobytes())


def _not_utf8(name: str) -> Callable[[h5py.File], None]:
    def spoil(old: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values = np.array([bytes(value) for value in old], dtype=object)
        values[-1] = b"\xff\xfe\xe9"
        return values

    return _replace(name, spoil, dtype=h5py.string_dtype("utf-8"))


def _duplicate_gene(file: h5py.File) -> None:
    file["var/_index"][1] = file["var/_index"][0]


def _attribute(name: str, key: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name].attrs[key] = value

    return change


def _remove(*names: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return change


_MUTATIONS: dict[str, tuple[str, Callable[[h5py.File], None]]] = {
    "external-link": ("external-link", _external_link("X/data")),
    "external-link-in-uns": ("external-link", _external_link("uns/deep/down")),
    "external-storage": ("external-storage", _external_storage),
    "virtual-dataset": ("virtual-dataset", _virtual),
    "huge-dense": ("declared-size", _huge_dense),
    "huge-indptr": ("declared-size", _huge_indptr),
    "huge-shape": ("shape", _attribute("X", "shape", np.array([1 << 40, 1 << 40]))),
    "negative-shape": ("shape", _attribute("X", "shape", np.array([-1, _N_GENES]))),
    "fewer-obs": ("shape", _replace("obs/_index", lambda old: old[:-1])),
    "indptr-start": ("indptr-start", _set("X/indptr", 0, 1)),
    "indptr-order": ("indptr-order", _set("X/indptr", 5, 0)),
    "indptr-negative": ("indptr-order", _set("X/indptr", 1, -3)),
    "indptr-end": ("indptr-end", _set("X/indptr", -1, 1 << 20)),
    "indptr-short": ("indptr-length", _replace("X/indptr", lambda old: old[:-1])),
    "indices-short": ("entries-length", _replace("X/indices", lambda old: old[:-1])),
    "index-negative": ("index-range", _set("X/indices", 1, -1)),
    "index-beyond": ("index-range", _set("X/indices", -1, _N_GENES)),
    "index-wraps": ("index-range", _replace("X/indices", lambda old: old.astype(np.int64) + (1 << 32))),
    "index-float": ("index-dtype", _replace("X/indices", lambda old: old.astype(np.float64))),
    "duplicate-entry": ("duplicate-entry", _set("X/indices", slice(0, 2), 0)),
    "nan": ("not-finite", _set("X/data", 3, np.nan)),
    "inf": ("not-finite", _set("X/data", 3, np.inf)),
    "negative": ("negative", _set("X/data", 3, -1)),
    "fractional": ("fractional", _set("X/data", 3, 1.5)),
    "values-text": ("value-dtype", _replace("X/data", lambda old: np.array([b"1"] * len(old), dtype="S1"))),
    "duplicate-gene": ("duplicate-gene", _duplicate_gene),
    "not-utf8-obs": ("not-utf8", _not_utf8("obs/_index")),
    "not-utf8-label": ("not-utf8", _not_utf8("obs/cell_type/categories")),
    "not-utf8-gene": ("not-utf8", _not_utf8("var/_index")),
    "label-code-beyond": ("code-range", _set("obs/cell_type/codes", 0, 99)),
    "link-cycle": ("link-cycle", _link_cycle),
    "soft-link-cycle": ("link-cycle", _soft_cycle),
    "dense-nan": ("not-finite", _dense(np.nan)),
    "dense-negative": ("negative", _dense(-1)),
    "dense-fractional": ("fractional", _dense(0.5)),
    "damaged-chunk": ("unreadable", _damaged_chunk),
    "missing-filter": ("unreadable", _missing_filter),
    "no-matrix": ("not-h5ad", _remove("X")),
    "no-obs": ("not-h5ad", _remove("obs")),
    "unknown-encoding": ("not-h5ad", _attribute("X", "encoding-type", "pickle")),
    "unsorted": (ACCEPTED, _swap_first_two),
}


def _broken_bytes(good: bytes) -> dict[str, tuple[str, bytes]]:
    return {
        "truncated": ("truncated", good[: len(good) * 6 // 10]),
        "truncated-header": ("truncated", good[:64]),
        "empty": ("not-hdf5", b""),
        "text": ("not-hdf5", b"barcode,gene,count\nAAAC,ENSG,1\n"),
        "html": ("not-hdf5", b"<!DOCTYPE html><title>404 Not Found</title>"),
        "zeroed-header": ("unreadable", good[:96] + bytes(4096) + good[96 + 4096 :]),
    }
