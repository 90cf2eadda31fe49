"""Single changes of an open h5ad file, from which the cases are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Change",
    "attribute",
    "cast",
    "chunk_bytes",
    "made",
    "put",
    "remade",
    "remove",
    "several",
    "without_attribute",
]

Array = np.ndarray[Any, Any]
Change = "Callable[[h5py.File], None]"
"""Breaks one thing of an open file."""


def put(name: str, position: Any, value: Any) -> Callable[[h5py.File], None]:
    """Write into a dataset."""

    def change(file: h5py.File) -> None:
        file[name][position] = value

    return change


def remade(name: str, values: Callable[[Array], Any], **options: Any) -> Callable[[h5py.File], None]:
    """Replace a dataset by what `values` makes of it; attributes stay."""

    def change(file: h5py.File) -> None:
        old, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=values(old), **options).attrs.update(attributes)

    return change


def made(name: str, make: Callable[[h5py.Group, str], Any]) -> Callable[[h5py.File], None]:
    """Replace whatever is at `name` by what `make` puts into its group; attributes stay where there are any."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        above, _, own = name.rpartition("/")
        group = file.require_group(above) if above else file
        make(group, own)
        node = group.get(own) if isinstance(group.get(own, getlink=True), h5py.HardLink) else None
        if node is not None:
            node.attrs.update(attributes)

    return change


def cast(name: str, dtype: Any) -> Callable[[h5py.File], None]:
    """Store a dataset in another type."""
    return remade(name, lambda old: old.astype(dtype))


def attribute(name: str, key: str, value: Any) -> Callable[[h5py.File], None]:
    """Set an attribute."""

    def change(file: h5py.File) -> None:
        file[name].attrs[key] = value

    return change


def without_attribute(name: str, key: str) -> Callable[[h5py.File], None]:
    """Remove an attribute."""

    def change(file: h5py.File) -> None:
        del file[name].attrs[key]

    return change


def remove(*names: str) -> Callable[[h5py.File], None]:
    """Remove datasets and groups."""

    def change(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return change


def several(*changes: Callable[[h5py.File], None]) -> Callable[[h5py.File], None]:
    """Make one change after the other."""

    def change(file: h5py.File) -> None:
        for one in changes:
            one(file)

    return change


def chunk_bytes(
    name: str, stored: Callable[[bytes], bytes], *, filter_mask: int = 0, **options: Any
) -> Callable[[h5py.File], None]:
    """Store a dataset as one HDF5 chunk of just these bytes, whatever its pipeline says of them.

    Parameters
    ----------
    stored
        Makes the chunk of the values' bytes.
    options
        Of ``create_dataset``: the pipeline.
    """

    def change(file: h5py.File) -> None:
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        dataset = file.create_dataset(name, values.shape, values.dtype, chunks=values.shape, **options)
        dataset.id.write_direct_chunk((0,) * values.ndim, stored(values.tobytes()), filter_mask)
        dataset.attrs.update(attributes)

    return change
