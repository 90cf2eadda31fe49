"""``create_archive``: an archive of datasets and files, by one call."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from ingest.load.memmap.convert.base import loss_text
from ingest.load.memmap.convert.opening import ReadOptions
from ingest.load.memmap.convert.run import check_path, run_conversion
from ingest.load.memmap.convert.survey import draft_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.load.memmap.convert.plan import ConversionPlan
    from ingest.load.memmap.convert.run import Converted
    from ingest.pool import Failure, Pool, SizedFactory
    from ingest.running import OpenPool

__all__ = ["create_archive", "local_pool", "warn_of_losses"]


def local_pool(kind: Literal["threads", "processes", "serial"]) -> OpenPool:
    """Return how to open a pool on this machine, without Ray."""

    @contextmanager
    def open_pool(factory: SizedFactory, size: int, *, memory_bytes: int) -> Iterator[Pool]:
        del memory_bytes  # a scheduler's matter
        pool = _pool(kind, factory, size)
        try:
            yield pool
        finally:
            pool.close()

    return open_pool


def _pool(kind: str, factory: SizedFactory, size: int) -> Pool:
    if kind == "processes":
        from ingest.process_pool import ProcessPool

        return ProcessPool(factory, size, threads=factory.threads)
    from ingest.thread_pool import ThreadPool

    return ThreadPool(factory, 1 if kind == "serial" else size)


class _Quiet:
    """Shows nothing."""

    def began(self, plan: ConversionPlan, n_done: int, n_workers: int) -> None: ...

    def reached(self, n_rows: int) -> None: ...

    def troubled(self, failure: Failure, retried: int) -> None: ...

    def draining(self, n_units: int) -> None: ...

    def finishing(self) -> None: ...


def create_archive(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    data_dtype: str | None = None,
    use_X_not_raw: bool = False,  # noqa: N803 # bionemo-scdl's name
    data_dtype_tolerance: float = 1e-8,
    neighbor_key: str | None = None,
    allow_lossy: bool = False,
    allow_incomplete: bool = False,
    endpoint_url: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    pool: Literal["threads", "processes", "serial"] = "threads",
) -> Path:
    """Make the archive `path` of all rows of `sources`, in their order; called again, go on where it was stopped.

    Nothing is at `path` before all of the archive is on the disk. Where the archive of the very same sources and
    settings is there already, nothing is done.

    Parameters
    ----------
    sources
        Datasets that `run` wrote (folders, ``s3://``, ``gs://``), h5ad files (paths, URLs, patterns), and folders,
        whose h5ad files are taken at any depth, sorted.
    data_dtype
        Type of the stored values: float32 unless said; an unsigned or floating one; ``auto`` for the smallest unsigned
        type that holds the counts of datasets that `run` wrote.
    use_X_not_raw
        Take X of h5ad files, not raw.X.
    data_dtype_tolerance
        How far a stored value may be from what the source holds.
    neighbor_key
        Store ``obsp[neighbor_key]`` of h5ad files, too.
    allow_lossy
        Store what `data_dtype` makes of values that it does not hold, with a warning, instead of refusing them.
    allow_incomplete
        Take what there is of datasets whose chunks are not all there.
    workers, threads, pool
        How many at a time, one a CPU unless said; CPUs of one; what they are.

    Returns
    -------
    Path
        Of the archive.

    Raises
    ------
    ConfigError
        Something else is at `path` (kind ``exists``), there is no such source, setting or type, the disk is full.
    SourceError
        A value does not survive its cast (kind ``lossy-cast``), or a file is at fault.
    CorruptError
        A chunk is missing or damaged; it is named.
    ConflictError
        Somebody else is making it, or another conversion was begun there.
    """
    check_path(path)
    options = ReadOptions(use_X_not_raw, allow_incomplete, endpoint_url, threads)
    words = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    plan = draft_plan(words, options, data_dtype=data_dtype, tolerance=data_dtype_tolerance, neighbor_key=neighbor_key)
    made = run_conversion(plan, path, options, local_pool(pool), _Quiet(), workers=workers, allow_lossy=allow_lossy)
    warn_of_losses(made)
    return made.path


def warn_of_losses(made: Converted) -> None:
    """Warn of every source of whose values the cast has changed any by more than is tolerated."""
    for number, lossy in sorted(made.lossy.items()):
        label = made.plan.sources[number].facts.label
        warnings.warn(f"{label}: {loss_text(lossy)}", stacklevel=3)
