"""Files that lead elsewhere, declare what they do not have, or store what their pipelines do not say."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.testing.hostile.changes import chunk_bytes, made, put, several

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CANARY_BYTES", "CANARY_H5", "STORAGE"]

CANARY_H5, CANARY_BYTES = "canary.h5", "canary.bin"
"""Files beside the cases that some of them point at, and that nobody may open."""

_UNKNOWN, _BLOSC, _FLETCHER = 60_000, 32_001, 3


def _link(name: str, target: str = "X/data", file_name: str | None = None) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        where = file_name or str(Path(file.filename).with_name(CANARY_H5))
        made(name, lambda group, own: group.__setitem__(own, h5py.ExternalLink(where, target)))(file)

    return change


def _soft(name: str, target: str) -> Callable[[h5py.File], None]:
    return made(name, lambda group, own: group.__setitem__(own, h5py.SoftLink(target)))


def _external(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        outside, node = str(Path(file.filename).with_name(CANARY_BYTES)), file[name]
        shape, dtype, attributes = node.shape, node.dtype, dict(node.attrs)
        del file[name]
        made_here = file.create_dataset(name, shape, dtype, external=[(outside, 0, h5py.h5f.UNLIMITED)])
        made_here.attrs.update(attributes)

    return change


def _virtual(name: str, *, of_itself: bool = False) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        where = "." if of_itself else str(Path(file.filename).with_name(CANARY_H5))
        node = file[name]
        shape, dtype, attributes = node.shape, node.dtype, dict(node.attrs)
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(where, name, shape)
        del file[name]
        file.create_virtual_dataset(name, layout).attrs.update(attributes)

    return change


def _declared(name: str, shape: tuple[int, ...], dtype: Any = "f4", **options: Any) -> Callable[[h5py.File], None]:
    return made(
        name,
        lambda group, own: group.create_dataset(own, shape, dtype, **{"chunks": (1 << 12,) * len(shape), **options}),
    )


def _hidden_cycle(file: h5py.File) -> None:
    file["uns/a/b"] = file["uns"].create_group("x")
    file["uns/a/b/back"] = file["uns/a"]


def _two_softs(file: h5py.File) -> None:
    file["uns/one"], file["uns/two"] = h5py.SoftLink("/uns/two"), h5py.SoftLink("/uns/one")


def _filtered(name: str, number: int) -> Callable[[h5py.File], None]:
    """Store a dataset under a filter that this HDF5 lacks."""

    def change(file: h5py.File) -> None:
        node = file[name]
        values, attributes = node[()], dict(node.attrs)
        group, own = file[name].parent, name.rpartition("/")[2]
        kind, space = node.id.get_type(), h5py.h5s.create_simple(values.shape)
        del file[name]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk(values.shape)
        creation.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
        dataset = h5py.Dataset(h5py.h5d.create(group.id, own.encode(), kind, space, dcpl=creation))
        dataset.id.write_direct_chunk((0,) * values.ndim, values.tobytes())
        dataset.attrs.update(attributes)

    return change


def _deflated_zeros(size: int) -> bytes:
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.flush()])


def _bomb(name: str, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: Any) -> Callable[[h5py.File], None]:
    """One chunk whose pipeline makes a thousand bytes of each."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        dataset = file.create_dataset(
            name, shape, dtype, maxshape=(None,) * len(shape), chunks=chunk, compression="gzip"
        )
        size = int(np.prod(chunk, dtype=np.int64)) * dataset.dtype.itemsize
        dataset.id.write_direct_chunk((0,) * len(shape), _deflated_zeros(size))
        dataset.attrs.update(attributes)

    return change


def _bomb_of_bombs(file: h5py.File) -> None:
    """Deflate twice: what it takes on the disk says nothing at all."""
    length = 1 << 22
    once = _deflated_zeros(length * 4)
    del file["X/data"]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((length,))
    for _ in range(2):
        creation.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (6,))
    space = h5py.h5s.create_simple((length,))
    dataset = h5py.h5d.create(file["X"].id, b"data", h5py.h5t.IEEE_F32LE, space, dcpl=creation)
    dataset.write_direct_chunk((0,), zlib.compress(once))


def _checksum_wrong(file: h5py.File) -> None:
    chunk_bytes("X/data", lambda raw: raw + b"\1\2\3\4", fletcher32=True)(file)


def _never_written(name: str, fill: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        node = file[name]
        shape, dtype, attributes = node.shape, node.dtype, dict(node.attrs)
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=shape, fillvalue=fill).attrs.update(attributes)

    return change


def _resized(file: h5py.File) -> None:
    """Blocks of an array that has shrunk stay in the file."""
    values = file["X/data"][()]
    del file["X/data"]
    dataset = file["X"].create_dataset("data", data=np.tile(values, 3), maxshape=(None,), chunks=(32,))
    dataset.resize((len(values),))


STORAGE: dict[str, Callable[[h5py.File], None]] = {
    # -- links
    "link-out-x": _link("X", "X"),
    "link-out-indptr": _link("X/indptr", "X/indptr"),
    "link-out-obs": _link("obs", "obs"),
    "link-out-column": _link("obs/score"),
    "link-out-index": _link("var/_index", "var/_index"),
    "link-out-labels": _link("obs/cell_type/categories"),
    "link-out-obsm": _link("obsm/X_pca"),
    "link-out-uns": _link("uns/pca/variance"),
    "link-out-beside": _link("uns/new", file_name=CANARY_H5),
    "link-out-to-nothing": _link("uns/new", file_name="/nowhere/at/all.h5"),
    "link-out-to-device": _link("uns/new", file_name="/dev/zero"),
    "link-out-to-itself": _link("uns/new", "/", file_name="."),
    "soft-to-nothing": _soft("uns/new", "/nowhere"),
    "soft-for-column": _soft("obs/score", "/X/data"),
    "soft-for-x": _soft("X", "/obs"),
    "soft-two-cycle": _two_softs,
    "hard-cycle-obs": lambda file: file.__setitem__("obs/loop", file["obs"]),
    "hard-cycle-root": lambda file: file.__setitem__("uns/root", file["/"]),
    "hard-cycle-hidden": _hidden_cycle,
    # -- data elsewhere
    "outside-indices": _external("X/indices"),
    "outside-column": _external("obs/score"),
    "outside-obsm": _external("obsm/X_pca"),
    "virtual-indices": _virtual("X/indices"),
    "virtual-column": _virtual("obs/score"),
    "virtual-obsm": _virtual("obsm/X_pca"),
    "virtual-of-itself": _virtual("X/data", of_itself=True),
    # -- declared and not there
    "declared-column": _declared("obs/score", (1 << 50,)),
    "declared-codes": _declared("obs/cell_type/codes", (1 << 50,), "i1"),
    "declared-labels": _declared("obs/cell_type/categories", (1 << 40,), h5py.string_dtype()),
    "declared-wide-label": _declared("obs/cell_type/categories", (2,), "S2000000000", chunks=(1,)),
    "declared-uns": _declared("uns/big", (1 << 60,), "i1"),
    "declared-obsm": _declared("obsm/X_pca", (24, 1 << 55), chunks=(1, 1 << 12)),
    "declared-most": _declared("uns/big", (2**63 - 1,), "i1"),
    "declared-32-dimensions": _declared("uns/big", (1 << 20,) * 32, "i1", chunks=(1,) * 32),
    "declared-mask": _declared("obs/lane/mask", (1 << 45,), "?"),
    # -- bombs
    "bomb-x": _bomb("X/data", (1 << 24,), (1 << 24,), "f4"),
    "bomb-column": _bomb("obs/score", (1 << 23,), (1 << 23,), "f8"),
    "bomb-labels": _bomb("obs/cell_type/categories", (2,), (2,), f"S{1 << 26}"),
    "bomb-names": _bomb("obs/_index", (24,), (24,), f"S{1 << 22}"),
    "bomb-one-chunk": _bomb("obs/score", (24,), (1 << 24,), "f8"),
    "bomb-obsm": _bomb("obsm/X_pca", (24, 3), (24, 1 << 20), "f4"),
    "bomb-twice": _bomb_of_bombs,
    # -- pipelines
    "filter-unknown-x": _filtered("X/data", _UNKNOWN),
    "filter-unknown-optional": _filtered("X/indices", _UNKNOWN),
    "filter-unknown-column": _filtered("obs/score", _BLOSC),
    "filter-unknown-obsm": _filtered("obsm/X_pca", _BLOSC),
    "filter-checksum-wrong": _checksum_wrong,
    "filter-not-deflated": chunk_bytes("X/data", lambda raw: raw, compression="gzip"),
    "filter-cut": chunk_bytes("X/data", lambda raw: zlib.compress(raw)[:-6], compression="gzip"),
    "filter-followed": chunk_bytes("X/data", lambda raw: zlib.compress(raw) + b"\1" * 64, compression="gzip"),
    "filter-too-short": chunk_bytes("X/data", lambda raw: zlib.compress(raw[:-4]), compression="gzip"),
    "filter-too-long": chunk_bytes("X/data", lambda raw: zlib.compress(raw + bytes(1 << 16)), compression="gzip"),
    "filter-empty": chunk_bytes("X/data", lambda _: zlib.compress(b""), compression="gzip"),
    "filter-mask-lies": chunk_bytes("X/data", zlib.compress, filter_mask=1, compression="gzip"),
    "filter-mask-high": chunk_bytes("X/data", zlib.compress, filter_mask=1 << 31, compression="gzip"),
    "filter-lzf-garbage": chunk_bytes("X/data", lambda _: b"\xff\xff\xff" * 40, compression="lzf"),
    "filter-lzf-back-reference": chunk_bytes("X/data", lambda _: b"\xe0\xff\xff" * 40, compression="lzf"),
    "filter-short-block": chunk_bytes("X/data", lambda raw: raw[: len(raw) // 2]),
    "filter-short-names": chunk_bytes("obs/score", lambda raw: raw[:8]),
    "filter-shuffled-cut": chunk_bytes(
        "X/indices", lambda raw: zlib.compress(raw[:-1]), compression="gzip", shuffle=True
    ),
    # -- never written
    "unwritten-x-nan": _never_written("X/data", np.nan),
    "unwritten-indices": _never_written("X/indices", -7),
    "unwritten-indptr": _never_written("X/indptr", 3),
    "unwritten-column": _never_written("obs/score", 2.5),
    "shrunk": _resized,
    "sparse-fill-and-negative": several(_never_written("X/indices", 0), put("X/data", 0, -1)),
}
