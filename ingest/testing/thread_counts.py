"""A worker that reports how many threads each library under it would use, asked in the process where it runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.pool import UnitOutcome

if TYPE_CHECKING:
    from ingest.pool import Progress, UnitTask

__all__ = ["ThreadCountsFactory"]


@dataclass(frozen=True, slots=True)
class ThreadCountsFactory:
    """Makes such a worker, of so many CPUs."""

    threads: int

    def __call__(self) -> _Counting:
        """Make it."""
        return _Counting(self.threads)


class _Counting:
    def __init__(self, threads: int) -> None:
        self._threads = threads

    def ready(self) -> None:
        """Import what a worker of a run imports, in its way."""
        from ingest.fetch.open import import_readers

        import_readers({"soma", "csr"})

    def run(self, task: UnitTask) -> UnitOutcome:
        """Return name -> threads, as the unit's result."""
        return UnitOutcome(task.unit_id, done=task.chunks, result=self._counts())

    def _counts(self) -> dict[str, Any]:
        import numba
        import pyarrow as pa
        import tiledbsoma
        from threadpoolctl import threadpool_info

        tiledb = tiledbsoma.SOMATileDBContext().native_context.config()
        return {
            "environment": {name: os.environ.get(name) for name in _VARIABLES},
            "numba": numba.get_num_threads(),
            "arrow": pa.cpu_count(),
            "blas": [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"],
            "openmp": [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"],
            "tiledb": {name: tiledb[name] for name in _TILEDB},
        }

    def progress(self) -> Progress | None:
        """Return nothing."""
        return None

    def stop_soon(self) -> None:
        """There is nothing to stop."""

    def close(self) -> None:
        """There is nothing to close."""


_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "BLOSC_NTHREADS")
_TILEDB = ("sm.compute_concurrency_level", "sm.io_concurrency_level")
