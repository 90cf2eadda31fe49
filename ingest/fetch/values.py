"""Value and index types: those the kernels know, and the exact conversion into the one a dataset is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.errors import HostileFileError, NotCountsError
from ingest.fetch.kernels import compiled
from ingest.validate import MAX_COUNT, value_fault

if TYPE_CHECKING:
    from ingest.fetch.base import FetchOptions

__all__ = ["convert_counts", "delivered_dtype", "plain_indices", "plain_values"]

Array = np.ndarray[Any, Any]

_STEP = 8192


def plain_values(values: Array, *, source: str) -> Array:
    """Return `values` as one of the kernels' types (float32, float64, int32, int64), without loss.

    Raises
    ------
    NotCountsError
        ``value-type`` for anything but numbers, ``count-overflow`` for what int64 cannot hold.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "f" and size <= 8:
        return values.astype(np.float32, copy=False) if size < 8 else values
    if kind in "bui" and (kind, size) != ("u", 8):
        return values.astype(np.int32 if size < 4 or (kind, size) == ("i", 4) else np.int64, copy=False)
    if kind == "u":
        if len(values) and int(values.max()) > MAX_COUNT:
            raise NotCountsError(
                f"{source}: holds {values.max()}, which is no count", kind="count-overflow", source=source
            )
        return values.astype(np.int64)
    raise NotCountsError(f"{source}: values of type {values.dtype} are no counts", kind="value-type", source=source)


def plain_indices(indices: Array, *, source: str) -> Array:
    """Return `indices` as int32 or int64; unsigned ones that int64 cannot hold become -1, which every kernel refuses.

    Raises
    ------
    HostileFileError
        ``index-type``: they are no integers.
    """
    if indices.dtype.kind not in "ui":
        raise HostileFileError(f"{source}: indices of type {indices.dtype}", kind="index-type", source=source)
    indices = indices.astype(indices.dtype.newbyteorder("="), copy=False)
    kind, size = indices.dtype.kind, indices.dtype.itemsize
    if (kind, size) == ("u", 8):
        return np.where(indices > np.uint64(2**62), np.int64(-1), indices.astype(np.int64))
    return indices.astype(np.int32 if size < 4 or (kind, size) == ("i", 4) else np.int64, copy=False)


def delivered_dtype(stored: str, options: FetchOptions, *, integer: bool) -> Any:
    """Return the numpy dtype in which counts stored as `stored` are delivered under `options`.

    The dataset's own, unless fractions are allowed and the source has some (`integer` is False): then its float type.
    """
    own = np.dtype(stored)
    if options.allow_noninteger and not integer and own.kind == "f":
        return np.dtype(np.float32) if own.itemsize < 8 else np.dtype(np.float64)
    return np.dtype(options.dtype)


@compiled
def _convert(data: Array, out: Array, low: Any, high: Any) -> int:
    # Branch-free inside a step, so that it vectorises. Converting a float that the integer type cannot hold is
    # undefined: it is zero instead, which it does not equal.
    for begin in range(0, data.size, _STEP):
        values, converted = data[begin : begin + _STEP], out[begin : begin + _STEP]
        bad = False
        for i in range(values.size):
            value = values[i]
            fits = value >= low and value <= high
            converted[i] = value if fits else data.dtype.type(0)
            bad |= not fits or converted[i] != value
        if bad:
            for i in range(values.size):
                if not (values[i] >= low and values[i] <= high) or converted[i] != values[i]:
                    return begin + i
    return -1


def convert_counts(counts: Counts, dtype: Any, *, source: str) -> Counts:
    """Return `counts` with values of `dtype`, each exactly equal; the same object when they have it already.

    Parameters
    ----------
    counts
        Values float32, float64, int32 or int64.
    dtype
        The numpy type wanted: float32, float64, int32 or uint16.
    source
        Named in errors.

    Raises
    ------
    NotCountsError
        ``count-overflow``, naming the largest value, when `dtype` cannot hold one exactly (uint16 ends at 65,535,
        float32 is exact to 16,777,216); ``nan``, ``negative``, ``fractional``, … when it is no count at all.
    """
    dtype = np.dtype(dtype)
    if counts.data.dtype == dtype:
        return counts
    out = np.empty(len(counts.data), dtype)
    if (place := _convert(counts.data, out, *_range(counts.data.dtype, dtype))) >= 0:
        raise _inexact(counts, place, dtype, source)
    return Counts(counts.indptr, counts.indices, out, counts.n_genes)


def _range(stored: Any, dtype: Any) -> tuple[Any, Any]:
    """Return the least and the largest value of type `stored` that are worth converting to `dtype`."""
    if stored.kind != "f":
        return np.int64(0), np.int64(MAX_COUNT if dtype.kind == "f" else min(MAX_COUNT, np.iinfo(dtype).max))
    if dtype.kind == "f":
        return stored.type(-np.inf), stored.type(np.inf)
    # float32 rounds 2**31 - 1 up to 2**31, which int32 does not hold: step down to the float below.
    top = stored.type(np.iinfo(dtype).max)
    return stored.type(0), np.nextafter(top, stored.type(0)) if int(top) > np.iinfo(dtype).max else top


def _inexact(counts: Counts, place: int, dtype: Any, source: str) -> NotCountsError:
    value = counts.data[place].item()
    row = int(np.searchsorted(counts.indptr, place, side="right")) - 1
    kind = value_fault(value) or "count-overflow"
    message = f"{source}: row {row}, column {counts.indices[place]} holds {value!r} ({kind}), not exact in {dtype}"
    if kind != "count-overflow":
        return NotCountsError(message, kind=kind, source=source)
    message = f"{message}; the largest value is {counts.data.max().item()!r}"
    return NotCountsError(message, kind=kind, hint="choose a wider type with --dtype", source=source)
