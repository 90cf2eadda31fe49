"""Before the first unit: read the index, survey the sources, draft the plan, divide the work."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa

from ingest.cells import Cells, cells_of_table
from ingest.cpu import available_cpus
from ingest.errors import ConfigError, IngestError
from ingest.fetch.base import FetchLimits
from ingest.memory import MIB
from ingest.opened import whole_index
from ingest.planning import Draft, draft_plan, profile_plan
from ingest.survey.run import SurveyOptions, survey_sources
from ingest.units import cut_units, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ingest.memory import MemoryPlan
    from ingest.opened import OpenPlan
    from ingest.profile import Profile
    from ingest.settings import DataSettings, WorkSettings
    from ingest.source import Source
    from ingest.survey.model import SourceSurvey
    from ingest.units import Unit

__all__ = ["Work", "cells_of_plan", "divide_work", "draft_dataset", "scratch_of"]

_SHAPING = ("anndata", "h5py", "numba", "numpy", "pandas", "pyarrow", "scipy", "tiledbsoma", "cell-ingest")
"""Packages whose version may shape bytes or data."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The missing chunks, cut for the workers at hand."""

    units: tuple[Unit, ...]
    missing: tuple[int, ...]
    workers: int
    profile: Profile
    memory: MemoryPlan
    read_bytes: float
    """Stored bytes that the units read."""
    least_bytes: float
    """The least that anyone could read for the same chunks."""


def scratch_of(work: WorkSettings) -> Path:
    """Return the scratch folder."""
    return work.scratch or Path(gettempdir())


def _limits(work: WorkSettings) -> FetchLimits:
    return FetchLimits(work.memory_bytes // 2, available_cpus(), scratch_of(work))


def draft_dataset(
    cells: Cells,
    data: DataSettings,
    work: WorkSettings,
    *,
    cache: Path | None,
    on_survey: Callable[[Source], None] = lambda _: None,
) -> Draft:
    """Survey the sources of `cells` and plan the dataset.

    Raises
    ------
    IngestError
        A source that cannot be surveyed, or settings that do not fit.
    """
    if data.layer is not None and all(source.kind != "h5ad" for source in cells.sources):
        raise ConfigError(
            f"--layer {data.layer} names a matrix of h5ad files; the counts of a Census are in X['raw']",
            kind="layer-of-census",
            hint="leave --layer out",
        )
    limits = _limits(work)
    options = SurveyOptions(data.layer, data.strip_version, data.allow_noninteger)
    surveys = survey_sources(cells.sources, _datasets(cells), options, limits, cache=cache, on_done=on_survey)
    return draft_plan(
        _with_promises(cells, surveys, limits),
        surveys,
        data,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: importlib.metadata.version(name) for name in _SHAPING},
        recorded=_recorded(work),
    )


def _recorded(work: WorkSettings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(work).items()}


def _datasets(cells: Cells) -> list[Collection[str] | None]:
    """Return for each source the dataset ids that its cells come from; None where the index does not say."""
    # In an index made by hand it may hold numbers, which are no dataset's id.
    if "dataset_id" not in cells.table.column_names or not pa.types.is_dictionary(cells.table["dataset_id"].type):
        return [None] * len(cells.sources)
    column = cells.table["dataset_id"].combine_chunks()
    edges = np.searchsorted(cells.codes, np.arange(len(cells.sources) + 1))
    found: list[Collection[str] | None] = []
    for source, (low, high) in zip(cells.sources, pairwise(edges.tolist()), strict=True):
        codes = () if source.kind == "h5ad" else column.slice(low, high - low).indices.unique().drop_null().to_pylist()
        found.append(None if source.kind == "h5ad" else {column.dictionary[code].as_py() for code in codes})
    return found


def _slices(cells: Cells) -> list[slice]:
    """Return where the cells of each source lie: cells are ordered by source."""
    edges = np.searchsorted(cells.codes, np.arange(len(cells.sources) + 1))
    return [slice(int(low), int(high)) for low, high in pairwise(edges)]


def _with_promises(cells: Cells, surveys: tuple[SourceSurvey, ...], limits: FetchLimits) -> Cells:
    """Add nnz and raw_sum, by which planning weighs and verifying checks, where a hand-made index lacks them."""
    if any(survey.layout != "soma" for survey in surveys) or cells.nnz() is not None:
        return cells
    from ingest.survey.soma import cell_sums

    nnz, raw_sum = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.float64)
    try:
        for survey, mine in zip(surveys, _slices(cells), strict=True):
            nnz[mine], raw_sum[mine] = cell_sums(survey.source, cells.coordinates[mine], limits)
    except IngestError as error:
        if error.kind != "no-cell-sums":  # the oldest releases do not know them; then receipts testify alone
            raise
        return cells
    for name, values in (("nnz", nnz), ("raw_sum", raw_sum)):
        cells = cells.with_column(name, values)
    return cells


def cells_of_plan(opened: OpenPlan) -> Cells:
    """Read the cells of a committed plan back."""
    return cells_of_table(whole_index(opened), opened.plan.identity.sources)


def divide_work(
    cells: Cells,
    surveys: tuple[SourceSurvey, ...],
    plan_of: Draft | OpenPlan,
    done: Collection[int],
    work: WorkSettings,
) -> Work:
    """Cut the missing chunks into units for the workers and the memory at hand.

    Raises
    ------
    ConfigError
        A chunk does not fit into a worker, or no worker into the machine.
    """
    plan = plan_of.plan
    profile, memory = profile_plan(cells, surveys, plan, memory_bytes=work.memory_bytes)
    missing = tuple(chunk for chunk in range(plan.n_chunks) if chunk not in done)
    workers = work.workers or _default_workers(memory.projected)
    if workers < 1:
        raise ConfigError(f"-d {workers}: at least one worker is needed", kind="bad-workers")
    units = tuple(cut_units(profile, missing, workers=workers))
    read, least = read_bytes(profile, units)
    return Work(units, missing, min(workers, max(1, len(units))), profile, memory, read, least)


def _default_workers(projected_bytes: int) -> int:
    """Return one worker a CPU, fewer where the machine's free memory holds fewer."""
    fits = psutil.virtual_memory().available // projected_bytes
    if fits < 1:
        raise ConfigError(
            f"a worker needs {projected_bytes // MIB:,} MiB; {psutil.virtual_memory().available // MIB:,} are free",
            kind="memory",
            hint="use a smaller -c, or -d 1 to try all the same",
        )
    return max(1, min(available_cpus(), int(fits)))
