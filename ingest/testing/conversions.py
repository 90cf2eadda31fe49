"""Conversions as tests make them: files with raw counts, an observer that remembers, one call to the archive."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from ingest.load.memmap.convert.api import local_pool
from ingest.load.memmap.convert.opening import ReadOptions
from ingest.load.memmap.convert.run import run_conversion
from ingest.load.memmap.convert.survey import draft_plan
from ingest.load.memmap.names import FileNames
from ingest.testing.h5ad_files import sample_counts, sample_obs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ingest.load.memmap.convert.plan import ConversionPlan
    from ingest.load.memmap.convert.run import Converted
    from ingest.pool import Failure
    from ingest.running import OpenPool

__all__ = ["Watching", "assert_same_archive", "assert_same_arrays", "begin", "convert", "open_theirs", "write_raw_file"]


class Watching:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.troubles: list[tuple[str, tuple[int, ...], int]] = []
        self.said: list[Any] = []

    def began(self, _plan: ConversionPlan, n_done: int, n_workers: int) -> None:
        """Remember with how much it begins."""
        self.said.append((n_done, n_workers))

    def reached(self, n_rows: int) -> None:
        """Remember how far it is."""
        self.rows.append(n_rows)

    def troubled(self, failure: Failure, retried: int) -> None:
        """Remember what went wrong."""
        self.troubles.append((failure.kind, failure.chunks, retried))

    def draining(self, _n_units: int) -> None:
        """Remember that it was asked to stop."""
        self.said.append("draining")

    def finishing(self) -> None:
        """Remember that all parts are made."""
        self.said.append("finishing")


def convert(
    sources: str | Path | Sequence[str | Path],
    path: Path,
    *,
    watching: Watching | None = None,
    options: ReadOptions | None = None,
    stop: Callable[[], bool] = lambda: False,
    open_pool: OpenPool | None = None,
    **settings: Any,
) -> Converted:
    """Make an archive at `path` in this process; `settings` are those of `draft_plan`."""
    options = options or ReadOptions()
    plan = draft_plan([sources] if isinstance(sources, (str, Path)) else sources, options, **settings)
    pool = open_pool or local_pool("serial")
    return run_conversion(plan, path, options, pool, watching or Watching(), workers=1, stop_requested=stop)


def write_raw_file(
    path: Path,
    n_cells: int = 30,
    n_genes: int = 12,
    *,
    seed: int = 0,
    raw: bool = True,
    obs: pd.DataFrame | None = None,
    scale: float = 1.0,
    genes: list[str] | None = None,
    obsp: Mapping[str, Any] | None = None,
) -> Path:
    """Write an h5ad of seeded counts times `scale`, in raw.X beside their logarithms unless `raw` is false."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = sample_counts(n_cells, n_genes, density=0.4, seed=seed) * np.float32(scale)
    var = pd.DataFrame(
        {"symbol": [f"g{n}" for n in range(n_genes)]}, index=genes or [f"ENSG{n}" for n in range(n_genes)]
    )
    cells = anndata.AnnData(counts, obs=sample_obs(n_cells, seed=seed) if obs is None else obs, var=var)
    if raw:
        cells.raw = cells.copy()
        cells.X = sparse.csr_matrix(np.log1p(counts.toarray()))
    for key, matrix in (obsp or {}).items():
        cells.obsp[key] = matrix
    cells.write_h5ad(path, compression="gzip")
    return path


def assert_same_archive(ours: Path, quiet: Path) -> None:
    """Assert that two folders hold the same files, to the byte but for the plan's date."""
    names = {str(path.relative_to(quiet)) for path in quiet.rglob("*") if path.is_file()}
    assert {str(path.relative_to(ours)) for path in ours.rglob("*") if path.is_file()} == names  # noqa: S101
    for name in names - {"plan.json"}:
        assert (ours / name).read_bytes() == (quiet / name).read_bytes(), name  # noqa: S101


def open_theirs(path: Path, **options: Any) -> Any:
    """Open an archive by bionemo-scdl."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

        return SingleCellMemMapDataset(str(path), **options)


def assert_same_arrays(ours: Path, theirs: Path) -> None:
    """Assert that two archives have the same arrays and headers, to the byte."""
    for name in (FileNames.DATA, FileNames.COLPTR, FileNames.ROWPTR):
        assert (ours / name.value).read_bytes() == (theirs / name.value).read_bytes(), name  # noqa: S101
    # Of several files theirs says the rows of the first.
    rows = (ours / "row_ptr.npy").stat().st_size // np.dtype(open_theirs(ours).row_index.dtype).itemsize - 1
    assert json.loads((ours / "metadata.json").read_text()) == {"num_rows": rows}  # noqa: S101
    assert (ours / "header.sch").read_bytes() == (theirs / "header.sch").read_bytes()  # noqa: S101


def begin(sources: str | Path | Sequence[str | Path], path: Path, **settings: Any) -> Converted:
    """Stop after some parts."""
    asked = iter([False] * 4)
    made = convert(sources, path, stop=lambda: next(asked, True), **settings)
    assert not made.finished  # noqa: S101
    assert made.n_done  # noqa: S101
    return made
