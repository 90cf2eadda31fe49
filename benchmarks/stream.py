"""``python -m benchmarks.stream FOLDER``: operations on one h5ad, file to file, beside anndata and scanpy in memory.

Every measurement is a process of its own: seconds after imports and compiled kernels, and the most memory it ever had.
The files are made in FOLDER when they are not there; they are in the page cache when they are read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

_GENES, _EACH = 4_000, 400
_SMALL = 1_000
_OPERATIONS = (("normalize", "csr"), ("filter", "csr"), ("csc", "csr"), ("csr", "csc"), ("csr", "dense"))
_WAYS = ("ours", "in memory")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "OPERATION", "LAYOUT"), help="measure this alone, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure(options.folder, options.cells[0], *options.one)))
        return 0
    for n_cells in (_SMALL, *options.cells):
        for layout in ("csr", "csc", "dense"):
            _make(options.folder, layout, n_cells)
    print(f"{'operation':<10} {'of':<6} {'cells':>8} {'way':<10} {'seconds':>8} {'CPU':>8} {'MB':>6}")
    for _ in range(options.rounds):
        for n_cells in options.cells:
            for operation, layout in _OPERATIONS:
                for way in _WAYS:
                    found = _child(options.folder, way, operation, layout, n_cells)
                    facts = f"{found['seconds']:>8.2f} {found['cpu_seconds']:>8.2f} {found['peak_mb']:>6.0f}"
                    print(f"{operation:<10} {layout:<6} {n_cells:>8,} {way:<10} {facts}", flush=True)
    return 0


def _path(folder: Path, layout: str, n_cells: int) -> Path:
    return folder / f"{layout}-{n_cells}.h5ad"


def _make(folder: Path, layout: str, n_cells: int) -> None:
    path = _path(folder, layout, n_cells)
    if path.exists():
        return
    rng = np.random.default_rng(n_cells)
    step = _GENES // _EACH
    offsets = rng.integers(0, step, (n_cells, _EACH), dtype=np.int32)
    indices = (offsets + np.arange(0, _GENES, step, dtype=np.int32)).reshape(-1)
    data = rng.geometric(0.5, len(indices)).astype(np.float32)
    indptr = np.arange(0, len(indices) + 1, _EACH)
    counts: Any = sparse.csr_matrix((data, indices, indptr), shape=(n_cells, _GENES))
    obs = pd.DataFrame(
        {"kind": pd.Categorical(rng.choice(list("ABCDE"), n_cells)), "share": rng.random(n_cells)},
        index=[f"cell{number}" for number in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{number}" for number in range(_GENES)])
    matrix = counts.toarray() if layout == "dense" else counts.asformat(layout)
    anndata.AnnData(matrix, obs=obs, var=var).write_h5ad(path, compression="gzip")


def _child(folder: Path, way: str, operation: str, layout: str, n_cells: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.stream", str(folder), "--cells", str(n_cells)]
    done = subprocess.run([*command, "--one", way, operation, layout], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(folder: Path, n_cells: int, way: str, operation: str, layout: str) -> dict[str, float]:
    call = _ours if way == "ours" else _in_memory
    out = folder / "out.h5ad"
    call(operation, _path(folder, layout, _SMALL), out)  # imports, compiled kernels
    out.unlink()
    began, cpu = time.perf_counter(), time.process_time()
    call(operation, _path(folder, layout, n_cells), out)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    out.unlink()
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """Return the most memory of this process; what getrusage says begins with that of the process it was forked of."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _masks(n_cells: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.random(n_cells) < 0.7, rng.random(_GENES) < 0.8


def _ours(operation: str, path: Path, out: Path) -> None:
    from ingest.stream import convert_to_csc, convert_to_csr, normalize_total_log1p, write_filtered_subset

    if operation == "normalize":
        normalize_total_log1p(path, out, verbose=False)
    elif operation == "filter":
        cells, genes = _masks(int(path.stem.rpartition("-")[2]))
        write_filtered_subset(path, cell_mask=cells, gene_mask=genes, output_path=out)
    else:
        (convert_to_csc if operation == "csc" else convert_to_csr)(path, output_path=out, verbose=False)


def _in_memory(operation: str, path: Path, out: Path) -> None:
    cells = anndata.read_h5ad(path)
    if operation == "normalize":
        import scanpy

        scanpy.pp.normalize_total(cells, target_sum=1e4)
        scanpy.pp.log1p(cells)
    elif operation == "filter":
        kept, genes = _masks(cells.n_obs)
        cells = cells[kept, genes].copy()
    else:
        cells.X = getattr(sparse, f"{operation}_matrix")(cells.X)
    cells.write_h5ad(out, compression="gzip")


if __name__ == "__main__":
    sys.exit(main())
