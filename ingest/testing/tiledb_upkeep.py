"""TileDB's own upkeep of arrays, which the SOMA package has no calls for: consolidating and vacuuming, by its C API."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tiledbsoma

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TileDBUpkeep"]

What = Literal["fragments", "commits", "fragment_meta", "array_meta"]


class TileDBUpkeep:
    """Calls the library that the SOMA package brings.

    Raises
    ------
    FileNotFoundError
        The package brings none of its own.
    """

    def __init__(self) -> None:
        beside = Path(tiledbsoma.__file__).parents[1] / "tiledbsoma.libs"
        found = sorted(beside.glob("libtiledb-*.so*"))
        if not found:
            raise FileNotFoundError(f"no libtiledb in {beside}")
        self._library = ctypes.CDLL(str(found[0]))

    def consolidate(self, uri: str, what: What) -> None:
        """Merge the fragments of the array at `uri`, or the files that say something of them."""
        self._call("tiledb_array_consolidate", uri, {"sm.consolidation.mode": what})

    def vacuum(self, uri: str, what: What) -> None:
        """Remove what was merged."""
        self._call("tiledb_array_vacuum", uri, {"sm.vacuum.mode": what})

    def _call(self, name: str, uri: str, options: Mapping[str, str]) -> None:
        library, config, context, error = self._library, ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._check(library.tiledb_config_alloc(ctypes.byref(config), ctypes.byref(error)), "tiledb_config_alloc")
        try:
            for key, value in options.items():
                status = library.tiledb_config_set(config, key.encode(), value.encode(), ctypes.byref(error))
                self._check(status, key)
            self._check(library.tiledb_ctx_alloc(config, ctypes.byref(context)), "tiledb_ctx_alloc")
            self._check(getattr(library, name)(context, uri.encode(), config), f"{name} of {uri}")
        finally:
            library.tiledb_ctx_free(ctypes.byref(context))
            library.tiledb_config_free(ctypes.byref(config))

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status:
            raise RuntimeError(f"{what}: TileDB answers {status}")
