"""What is measured on: a mini-Census of the real layout, and selections of its cells."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from platformdirs import user_cache_path
from pyarrow import feather

from index.build import CensusOptions, index_census
from ingest.testing.census import CensusSpec, cached_census

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.survey.model import SourceSurvey
    from ingest.testing.census import BuiltCensus

__all__ = ["FULL", "MANY_DATASETS", "TINY", "Selection", "bench_census", "select", "survey_of"]

FULL = CensusSpec(n_cells=50_000, n_genes=60_530, mean_nnz_per_cell=2_440)
"""A human Census' genes and non-zeros, 25 bands."""

MANY_DATASETS = CensusSpec(n_cells=120_000, n_genes=20_000, mean_nnz_per_cell=1_000, n_datasets=16)
"""As many non-zeros in 59 bands of 16 datasets."""

TINY = CensusSpec(n_cells=6_000, n_genes=5_000, mean_nnz_per_cell=400)
"""For trying the benchmarks themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Cells to bring."""

    index: Path
    """Feather file, as `run --index` takes it."""
    joinids: np.ndarray[Any, np.dtype[np.int64]]
    """int64 ``(n_cells,)``, ascending: the index's own order."""

    def obs(self) -> pa.Table:
        """Return the columns that a run hands to its encoder."""
        table = feather.read_table(self.index)
        return table.drop_columns([name for name in ("source", "row") if name in table.column_names])

    def names(self) -> pa.StringArray:
        """Return the cells' names: of one Census alone, the joinids."""
        return pa.array(self.joinids.astype(str).tolist(), pa.string())


def bench_census(spec: CensusSpec) -> BuiltCensus:
    """Return the Census of `spec`, built once into the user's cache."""
    return cached_census(user_cache_path("cell-ingest") / "census", spec)


def select(census: BuiltCensus, folder: Path, density: float) -> Selection:
    """Write the index of exactly that share of all cells, chosen by a hash of their joinids.

    Chosen cells lie scattered over every band, which is the hardest selection: a band is read for all its cells and
    loses the others.
    """
    whole = folder / "all.feather"
    if not whole.exists():
        index_census(CensusOptions(output=whole, uri=census.uri, all_cells=True))
    table = feather.read_table(whole)
    joinids = table["soma_joinid"].to_numpy()
    wanted = np.sort(np.argsort(_scatter(joinids), kind="stable")[: max(1, round(density * len(joinids)))])
    path = folder / f"cells-{density:g}.feather"
    feather.write_feather(table.take(pa.array(wanted)), str(path), compression="uncompressed")
    return Selection(path, joinids[wanted])


def survey_of(selection: Selection, cache: Path) -> SourceSurvey:
    """Return the survey of the Census that the cells come from."""
    from ingest.cells import read_cells
    from ingest.preparing import draft_dataset
    from ingest.settings import DataSettings, WorkSettings

    with (
        closing(read_cells(selection.index)) as cells,
        closing(draft_dataset(cells, DataSettings(), WorkSettings(), cache=cache)) as draft,
    ):
        (survey,) = draft.surveys
    return survey


def _scatter(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return a 64-bit mix of every number (the finalizer of SplitMix64), the same everywhere and always."""
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
