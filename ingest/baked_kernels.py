"""Compiled kernels that come with an image: read where they lie, though nothing there can be written.

Numba takes a folder for its cache only if it can write there. An image's root is mounted read-only, so what was
compiled as it was built would be compiled again by every process. Here each cache file of the image is linked into
the folder that can be written, and numba finds it; what the image lacks is compiled and kept beside it.

An image asks for it by two variables: ``NUMBA_CACHE_LOCATOR_CLASSES``, which begins with
``ingest.baked_kernels.BakedKernels``, and ``CELL_INGEST_KERNELS``, the folder that was ``NUMBA_CACHE_DIR`` of
``python -m ingest.warm`` as it was built. Numba keeps compiled code under the CPU's name: an image that runs on
other CPUs than it was built on says which one is meant (``NUMBA_CPU_NAME``, ``NUMBA_CPU_FEATURES``).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from numba.core.caching import UserProvidedCacheLocator

__all__ = ["BakedKernels"]


class BakedKernels(UserProvidedCacheLocator):
    """Numba's locator of ``NUMBA_CACHE_DIR``, which finds there what the image brought."""

    def ensure_cache_path(self) -> None:
        """Make the folder of a module and link what the image has of it; raises ``OSError`` as numba's own does."""
        super().ensure_cache_path()  # type: ignore[no-untyped-call]  # numba has no types
        baked = os.environ.get("CELL_INGEST_KERNELS")
        if baked:
            here = Path(self.get_cache_path())  # type: ignore[no-untyped-call]  # neither here
            _link(Path(baked) / here.name, here)


def _link(baked: Path, here: Path) -> None:
    """Link every file of `baked` that `here` lacks: data before the index that names it.

    Many processes of a node start at once; whichever comes first makes a link. Numba replaces files by renaming,
    which replaces a link and not what it points at.
    """
    if baked == here or not baked.is_dir():
        return
    for path in sorted(baked.iterdir(), key=lambda path: path.suffix == ".nbi"):
        with suppress(FileExistsError):
            (here / path.name).symlink_to(path)
