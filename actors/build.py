"""Which build of this package a process runs: driver and workers of one run must have the same.

What travels is a plain table of texts: it must be readable to whatever build is at the other end.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ingest import __version__
from ingest.errors import VersionMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Build", "mismatch", "this_build"]

Build = dict[str, str]
"""Name -> version; ``sources`` is a digest of the code itself."""

_PACKAGES = ("ingest", "index", "actors")
_LIBRARIES = ("anndata", "h5py", "numba", "numpy", "tiledbsoma")
"""What decides what is read and how it is written; within one major version they read and write the same counts."""

_DIGITS = 12


@functools.cache
def _sources_digest() -> str:
    """Return a digest of every module: builds of one version number differ while it is worked on."""
    digest = hashlib.sha256()
    for name, path in _modules():
        data = path.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:_DIGITS]


def _modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of the packages with its name, wherever they are installed or unpacked."""
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in sorted(spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                yield f"{package}/{path.relative_to(folder).as_posix()}", path


def this_build(*, sources: bool = True) -> Build:
    """Return the build of this process.

    Parameters
    ----------
    sources
        With the digest of all modules: not where both ends run the very same files, which somebody may be editing.
    """
    return {
        "cell-ingest": __version__,
        **({"sources": _sources_digest()} if sources else {}),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        **{name: _major(name) for name in _LIBRARIES},
    }


def _major(name: str) -> str:
    """Return the part of a library's version that compatibility goes by: the major one, or 0.x."""
    try:
        numbers = importlib.metadata.version(name).split(".")
    except importlib.metadata.PackageNotFoundError:
        return "none"
    return ".".join(numbers[:2]) if numbers[0] == "0" else numbers[0]


def mismatch(driver: Mapping[str, str], worker: Mapping[str, str], where: str) -> VersionMismatchError | None:
    """Return the error of a worker that is not of the driver's build, as far as the driver says; None where it is."""
    names = [name for name in driver if driver[name] != worker.get(name)]
    if not names:
        return None
    here, there = (", ".join(f"{name} {build.get(name, 'none')}" for name in names) for build in (driver, worker))
    return VersionMismatchError(
        f"the driver has {here}, the worker on {where} has {there}",
        hint="use one image for all, or bring the code along: `ray job submit --working-dir .` in a clone",
    )
