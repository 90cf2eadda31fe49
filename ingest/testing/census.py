"""Build a Census to play with and to test against: the real layout, made-up cells, seeded.

TileDB starts threads in the process that builds and is not fork-safe: do not fork afterwards, spawn.
"""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ingest.testing import census_tables as tables
from ingest.testing.census_model import CensusSpec, OrganismModel, draw_models
from ingest.testing.census_soma import CensusWriter
from ingest.testing.census_x import draw_bands

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

__all__ = ["BuiltCensus", "CensusSpec", "build_census", "cached_census"]


@dataclass(frozen=True, slots=True)
class BuiltCensus:
    """A Census in a folder; open it with ``cellxgene_census.open_soma(uri=built.uri)``."""

    path: Path
    """The root collection."""
    spec: CensusSpec
    """What it was built from."""

    @property
    def uri(self) -> str:
        """For ``open_soma(uri=…)``: an absolute path."""
        return str(self.path.absolute())

    @property
    def n_cells(self) -> int:
        """Cells of each organism."""
        return self.spec.n_cells


def cached_census(
    cache_dir: Path, spec: CensusSpec, *, progress: Callable[[int, int], None] | None = None
) -> BuiltCensus:
    """Return the Census of `spec`, built into `cache_dir` unless it is there already.

    A Census appears under its name only when it is whole; of two processes at once the second waits for the first.

    Parameters
    ----------
    cache_dir
        Folder for any number of Censuses; made when absent.
    spec
        What to build.
    progress
        As in :func:`build_census`; not called when nothing is built.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    path = cache_dir / f"census-{spec.digest}"
    with (cache_dir / f"{path.name}.lock").open("w") as lock:
        # The lock goes with its process, so what a killed builder left needs no judging by age.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_name(f"{path.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            build_census(partial, spec, progress=progress)
            partial.rename(path)
    return BuiltCensus(path, spec)


def build_census(path: Path, spec: CensusSpec, *, progress: Callable[[int, int], None] | None = None) -> BuiltCensus:
    """Write the Census of `spec` to the new folder `path`.

    Parameters
    ----------
    path
        Must not exist.
    spec
        What to build.
    progress
        Called with cells done and cells in all, over all organisms.

    Raises
    ------
    FileExistsError
        There is something at `path`.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; a Census is built into a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    models = list(draw_models(spec))
    writer = CensusWriter(str(path.absolute()))
    writer.create_collections(spec.organisms)
    obs = {}
    for number, model in enumerate(models):
        advance = partial(_report, progress, number * spec.n_cells, len(models) * spec.n_cells)
        obs[model.organism] = _write_organism(writer, spec, model, advance)
    writer.write_frame("census_info", "summary", tables.summary_table(spec, models))
    writer.write_frame("census_info", "datasets", tables.datasets_table(models))
    writer.write_frame("census_info", "organisms", tables.organisms_table(models))
    writer.write_frame("census_info", "summary_cell_counts", tables.cell_counts_table(obs))
    return BuiltCensus(path, spec)


def _report(progress: Callable[[int, int], None] | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress(before + done, total)


def _write_organism(
    writer: CensusWriter, spec: CensusSpec, model: OrganismModel, advance: Callable[[int], None]
) -> pa.Table:
    """Write one experiment and return its obs."""
    experiment = f"census_data/{model.organism}"
    measurement = f"{experiment}/ms/RNA"
    shape = (spec.n_cells, spec.n_genes)
    statistics = tables.Statistics.empty(*shape)
    layers = ["raw", "normalized"] if spec.normalized else ["raw"]
    with writer.open_layers(f"{measurement}/X", layers, shape) as write:
        for band in draw_bands(model, spec.seed):
            statistics.add(band)
            write(band)
            advance(band.stop)
    obs = tables.obs_table(model, statistics, spec.seed)
    writer.write_frame(experiment, "obs", obs)
    writer.write_frame(measurement, "var", tables.var_table(model, statistics.gene_nnz))
    writer.write_presence(measurement, model.datasets)
    return obs
