"""Before the first unit: survey the sources, draft the plan, divide the work."""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from ingest import __version__
from ingest.bandwidth import LEAST_SHARE, Line, share_of
from ingest.cpu import available_cpus
from ingest.encode.sizes import FileKind
from ingest.errors import ConfigError, IngestError
from ingest.fetch.base import FetchLimits
from ingest.memory import MIB, plan_memory
from ingest.plan_rows import plan_batches
from ingest.planning import Draft, draft_plan, profile_builder
from ingest.sample_check import judge_samples
from ingest.survey.run import SurveyOptions, survey_again, survey_sources
from ingest.units import cut_units, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from ingest.cells import CellBatch, Cells
    from ingest.memory import MemoryPlan
    from ingest.opened import OpenPlan
    from ingest.plan import Identity
    from ingest.profile import Profile
    from ingest.settings import DataSettings, WorkSettings
    from ingest.source import Source
    from ingest.survey.model import SourceSurvey
    from ingest.units import Unit

__all__ = ["Work", "divide_work", "draft_dataset", "file_kind", "profile_of_plan", "scratch_of"]

_SHAPING = ("anndata", "h5py", "numba", "numpy", "pandas", "pyarrow", "scipy", "tiledbsoma")
"""Packages whose version may shape bytes or data; as this one's own, which need not be installed to run."""

_SUMS_AT_ONCE = 1 << 21
"""Cells whose non-zeros a source is asked for at once: asking takes opening it."""

_ON_CLUSTER = 256
"""Workers that the work is cut for where a cluster decides how many there are. Of 162 M cells it makes 1,400 units, by
which a thousand workers come to an end together nearly as well; cutting for them takes seconds, and short units."""

_NUMERIC = 4
"""Bytes of one count in memory; uint16 and int16 are fetched as int32."""


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
    return FetchLimits(work.memory_bytes // 2, available_cpus(), scratch_of(work), Line(work.bytes_per_s))


def draft_dataset(
    cells: Cells,
    data: DataSettings,
    work: WorkSettings,
    *,
    cache: Path | None,
    on_survey: Callable[[Source], None] = lambda _: None,
    quality: Mapping[str, Any] | None = None,
) -> Draft:
    """Survey the sources of `cells` and plan the dataset.

    Parameters
    ----------
    quality
        What quality control has made of the index that was asked for, to be recorded; None: nothing.

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
    surveys = survey_sources(cells.sources, cells.datasets, options, limits, cache=cache, on_done=on_survey)
    judged = judge_samples(surveys, cells.largest)
    if accused := [at for at, survey in enumerate(surveys) if judged[at].fault is not survey.fault]:
        surveys = survey_again(surveys, accused, cells.datasets, options, limits, cache=cache)
        judged = judge_samples(surveys, cells.largest)
    return draft_plan(
        _with_promises(cells, judged, limits),
        judged,
        data,
        work,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: importlib.metadata.version(name) for name in _SHAPING} | {"cell-ingest": __version__},
        recorded=_recorded(work) | ({} if quality is None else {"quality_control": dict(quality)}),
    )


def _recorded(work: WorkSettings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(work).items()}


def _with_promises(cells: Cells, surveys: tuple[SourceSurvey, ...], limits: FetchLimits) -> Cells:
    """Add nnz and raw_sum, by which planning weighs and verifying checks, where a hand-made index lacks them."""
    if any(survey.layout != "soma" for survey in surveys) or cells.knows_nnz:
        return cells
    from ingest.survey.soma import cell_sums

    try:
        for survey in surveys:
            cell_sums(survey.source, np.empty(0, np.int64), limits)
    except IngestError as error:
        if error.kind != "no-cell-sums":  # the oldest releases do not know them; then receipts testify alone
            raise
        return cells
    return cells.amended(lambda batches: _promised(batches, surveys, limits))


def _promised(
    batches: Iterator[CellBatch], surveys: tuple[SourceSurvey, ...], limits: FetchLimits
) -> Iterator[CellBatch]:
    """Ask the sources for many batches at once and yield each with its share of the answer."""
    held: list[CellBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= _SUMS_AT_ONCE:
            yield from _summed(held, surveys, limits)
            held = []
    yield from _summed(held, surveys, limits)


def _summed(
    batches: Sequence[CellBatch], surveys: tuple[SourceSurvey, ...], limits: FetchLimits
) -> Iterator[CellBatch]:
    from ingest.survey.soma import cell_sums

    if not batches:
        return
    codes, coordinates = (np.concatenate([getattr(one, name) for one in batches]) for name in ("codes", "coordinates"))
    nnz, raw_sum = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.float64)
    for number in np.unique(codes).tolist():
        mine = slice(*np.searchsorted(codes, [number, number + 1]).tolist())
        nnz[mine], raw_sum[mine] = cell_sums(surveys[number].source, coordinates[mine], limits)
    start = 0
    for batch in batches:
        mine = slice(start, start + len(batch))
        start += len(batch)
        yield batch.with_column("nnz", nnz[mine]).with_column("raw_sum", raw_sum[mine])


def profile_of_plan(opened: OpenPlan, work: WorkSettings) -> Profile:
    """Return what the chunks of a committed plan ask of their sources, from its index.

    Raises
    ------
    CorruptError
        The index is damaged.
    """
    identity = opened.plan.identity
    builder = profile_builder(
        opened.surveys, identity.n_cells, identity.cells_per_chunk, identity.n_genes, work, opened.plan.windows
    )
    for batch in plan_batches(opened, ("source", "soma_joinid", "row", "nnz")):
        builder.add(batch.codes, batch.coordinates, batch.table)
    return builder.finish()


def divide_work(profile: Profile, plan_of: Draft | OpenPlan, done: Collection[int], work: WorkSettings) -> Work:
    """Cut the missing chunks into units for the workers and the memory at hand.

    Parameters
    ----------
    profile
        Of the plan: a draft has it, `profile_of_plan` reads it.

    Raises
    ------
    ConfigError
        A chunk does not fit into a worker, no worker into the machine, or too many workers share a line.
    """
    plan = plan_of.plan
    memory = _memory(profile, plan_of, work)
    missing = tuple(chunk for chunk in range(plan.n_chunks) if chunk not in done)
    few = _ON_CLUSTER if work.on_cluster else 0
    workers = work.workers or few or _default_workers(memory.projected, work.bytes_per_s)
    if workers < 1:
        raise ConfigError(f"-d {workers}: at least one worker is needed", kind="bad-workers")
    units = tuple(cut_units(profile, missing, workers=workers))
    read, least = read_bytes(profile, units)
    most = len(units) if work.on_cluster and work.workers is None else workers
    divided = Work(units, missing, max(1, min(most, len(units))), profile, memory, read, least)
    share_of(work.bytes_per_s, divided.workers)  # refuses one that is too small
    return divided


def _memory(profile: Profile, plan_of: Draft | OpenPlan, work: WorkSettings) -> MemoryPlan:
    plan = plan_of.plan
    return plan_memory(
        profile,
        cells_per_chunk=min(plan.identity.cells_per_chunk, plan.n_cells),
        value_bytes=max(_NUMERIC, np.dtype(plan.identity.dtype).itemsize),
        limit=work.memory_bytes,
        kind=file_kind(plan.identity),
        n_genes=plan.identity.n_genes,
        remote=any(survey.layout == "soma" and survey.source.path is None for survey in plan_of.surveys),
        window_cells=0 if plan.windows is None else min(plan.windows.cells, plan.n_cells),
    )


def file_kind(identity: Identity) -> FileKind:
    """Return what decides the size of a plan's files."""
    return FileKind(identity.format, identity.codec, identity.dtype, identity.fractional)


def _default_workers(projected_bytes: int, bytes_per_s: float | None) -> int:
    """Return one worker a CPU, fewer where the machine's free memory holds fewer, or the line feeds fewer."""
    fits = psutil.virtual_memory().available // projected_bytes
    if fits < 1:
        raise ConfigError(
            f"a worker needs {projected_bytes // MIB:,} MiB; {psutil.virtual_memory().available // MIB:,} are free",
            kind="memory",
            hint="use a smaller -c, or -d 1 to try all the same",
        )
    feeds = math.inf if bytes_per_s is None else bytes_per_s // LEAST_SHARE
    return int(max(1, min(available_cpus(), fits, feeds)))
