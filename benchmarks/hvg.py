"""Highly variable genes: ours beside decoding the same chunks and nothing else, scanpy in memory, and a backed file.

Each way is a process of its own, warmed up on one chunk; its CPU-seconds are those of the work, imports left out, and
count what runs beside the decoding too (fetching, hashing). scanpy's function takes no backed file (1.11: every flavour
raises), so ``backed`` is what its users write instead: sums of slices of a file opened by anndata with ``backed="r"``.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.child import Clock, in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["WAYS", "run"]

_N_HVGS = 2_000
_SLICE_CELLS = 5_000


def run(bench: Bench) -> list[Row]:
    """Make a dataset of each size and choose genes from it in every way, in turn, in every round."""
    from ingest.settings import DEFAULT_CELLS_PER_CHUNK, DataSettings
    from ingest.testing.datasets import make_dataset

    rows: list[Row] = []
    for size in (bench.chunk_sizes[1], DEFAULT_CELLS_PER_CHUNK):
        dest = bench.fresh_folder(f"hvg-{size}")
        make_dataset(str(dest), bench.selection(1.0).index, data=DataSettings(cells_per_chunk=size))
        whole = _whole_file(dest)
        for turn in range(bench.repeats):
            for way in WAYS if turn == 0 else _COMPARED:
                place = whole if way == "backed" else dest
                rows.append({"way": way, "round": turn, "size": size, **in_child("benchmarks.hvg", way, place)})
    return rows


def _whole_file(dest: Path) -> Path:
    """Write all cells into one h5ad file, once."""
    path = dest / "whole.h5ad"
    _load(dest).write_h5ad(path)
    return path


def _chunks(dest: Path) -> list[Path]:
    return sorted((dest / "chunks").iterdir())


def _load(dest: Path) -> Any:
    import anndata

    return anndata.concat([anndata.read_h5ad(path) for path in _chunks(dest)])


def _decode(dest: Path, clock: Clock) -> int:
    from ingest.encode.decode import decode_chunk

    decode_chunk(_chunks(dest)[-1].read_bytes(), key="warm-up")
    nnz = 0
    with clock.part("decode"):
        for path in _chunks(dest):
            nnz += decode_chunk(path.read_bytes(), key=path.name).counts.nnz
    return nnz


class _Nobody:
    def reached(self, n_cells: int) -> None:
        pass

    def troubled(self, failure: object, retried: int) -> None:
        pass


def _ours(flavour: Any) -> Callable[[Path, Clock], int]:
    def choose(dest: Path, clock: Clock) -> int:
        from ingest.hvg.find import check_request, find_hvgs, read_data
        from ingest.hvg.parameters import HvgParameters
        from ingest.opened import open_plan
        from ingest.settings import WorkSettings
        from ingest.store.open import open_store
        from ingest.testing.datasets import open_serial_pool
        from ingest.warm import compile_hvg_kernels

        compile_hvg_kernels()
        settings = WorkSettings(workers=1, pool="serial")
        with clock.part("choose"):
            data = read_data(open_plan(open_store(str(dest))))
            request = check_request(data, HvgParameters.of(flavour, n_hvgs=_N_HVGS), memory_bytes=1 << 30)
            find_hvgs(request, settings, open_serial_pool, lambda _word: _Nobody())
        return sum(chunk.nnz for chunk in data.chunks)

    return choose


def _scanpy(flavour: str) -> Callable[[Path, Clock], int]:
    def choose(dest: Path, clock: Clock) -> int:
        import scanpy

        with clock.part("read"):
            cells = _load(dest)
        with clock.part("choose"):
            if flavour != "seurat_v3":
                scanpy.pp.normalize_total(cells)
                scanpy.pp.log1p(cells)
            scanpy.pp.highly_variable_genes(cells, n_top_genes=_N_HVGS, flavor=flavour)
        return int(cells.X.nnz)

    return choose


def _backed(path: Path, clock: Clock) -> int:
    import anndata
    import numpy as np

    nnz = 0
    with clock.part("choose"):
        cells = anndata.read_h5ad(path, backed="r")
        total, squares = np.zeros(cells.n_vars), np.zeros(cells.n_vars)
        for start in range(0, cells.n_obs, _SLICE_CELLS):
            counts = cells.X[start : start + _SLICE_CELLS].astype(np.float64)
            nnz += counts.nnz
            total += np.asarray(counts.sum(axis=0)).ravel()
            squares += np.asarray(counts.multiply(counts).sum(axis=0)).ravel()
        mean = total / cells.n_obs
        with np.errstate(invalid="ignore"):
            np.argsort(-(squares / cells.n_obs - mean**2) / mean)[:_N_HVGS]
    return nnz


WAYS: dict[str, Callable[[Path, Clock], int]] = {
    "decode": _decode,
    "dispersion": _ours("dispersion"),
    "seurat": _ours("seurat"),
    "seurat_v3": _ours("seurat_v3"),
    "scanpy seurat": _scanpy("seurat"),
    "scanpy seurat_v3": _scanpy("seurat_v3"),
    "backed": _backed,
}
"""Name -> what is measured, all in the first round: given the dataset (``backed``: the one file), it returns the
non-zeros read."""


_COMPARED = ("decode", "dispersion")
"""What a ratio is formed of: in every round."""


class _WorkClock(Clock):
    """Takes the CPU time of the parts as well."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_seconds = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.process_time()
        with super().part(name):
            yield
        self.cpu_seconds += time.process_time() - start


def main(arguments: list[str]) -> None:
    """Measure one way and print its row."""
    import warnings

    warnings.simplefilter("ignore")  # scanpy's, of its dependencies
    way, place = arguments[arguments.index("--measure") + 1 :]
    clock = _WorkClock()
    nnz = WAYS[way](Path(place), clock)
    clock.report(nnz=nnz, work_cpu_seconds=round(clock.cpu_seconds, 3))


if __name__ == "__main__":
    main(sys.argv)
