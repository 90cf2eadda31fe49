"""Compile what only compiled functions call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["inner"]

Function = TypeVar("Function", bound="Callable[..., Any]")

_OPTIONS: dict[str, Any] = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def inner(function: Function) -> Function:
    """Compile `function` as `ingest.fetch.kernels.compiled` does, but so that Python cannot call it.

    The ways in from Python and C that numba gives every function take a fifth of the time to compile the whole tree.
    """
    try:
        return cast("Function", numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # no cache folder is writable
        return cast("Function", numba.njit(**_OPTIONS)(function))
