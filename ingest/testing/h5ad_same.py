"""Whether two anndatas, or parts of them, hold the same: values, types, order of names."""
# ruff: noqa: S101  # assert is how pytest speaks

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

__all__ = ["assert_same"]

_MAPPINGS = ("obsm", "varm", "obsp", "varp", "layers", "uns")


def assert_same(found: Any, expected: Any, where: str = "it") -> None:
    """Compare two AnnData, or two elements of such.

    Raises
    ------
    AssertionError
        They differ; `where` and the path below it are named.
    """
    if isinstance(expected, anndata.AnnData):
        _same_cells(found, expected, where)
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected), f"{where}: {list(found)} instead of {list(expected)}"
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, obj=where)
    elif sparse.issparse(expected):
        _same_sparse(found, expected, where)
    elif expected is None:
        assert found is None, f"{where}: {found!r} instead of None"
    else:
        assert type(found) is type(expected), f"{where}: {type(found)} instead of {type(expected)}"
        np.testing.assert_array_equal(found, expected, err_msg=where)
        assert np.asarray(found).dtype == np.asarray(expected).dtype, where


def _same_cells(found: anndata.AnnData, expected: anndata.AnnData, where: str) -> None:
    assert_same(found.X, expected.X, f"{where}/X")
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), obj=f"{where}/{name}")
    for name in _MAPPINGS:
        assert_same(dict(getattr(found, name)), dict(getattr(expected, name)), f"{where}/{name}")
    assert (found.raw is None) == (expected.raw is None), f"{where}/raw"
    if expected.raw is not None:
        assert_same(found.raw.X, expected.raw.X, f"{where}/raw/X")
        assert_same(found.raw.var, expected.raw.var, f"{where}/raw/var")
        assert_same(dict(found.raw.varm), dict(expected.raw.varm), f"{where}/raw/varm")


def _same_sparse(found: Any, expected: Any, where: str) -> None:
    assert (found.format, found.shape) == (expected.format, expected.shape), where
    for name in ("indptr", "indices", "data"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, f"{where}/{name}: {one.dtype} instead of {other.dtype}"
        np.testing.assert_array_equal(one, other, err_msg=f"{where}/{name}")
