"""From cells, surveys and settings to a plan with the files that it names, in one pass over the cells in plan order.

Nothing is read but the index and nothing is written but the plan's own copy of it, to scratch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ingest.batching import read_ahead
from ingest.cells_digest import CellsDigest
from ingest.documents import sha256_hex
from ingest.encode.open import check_codec
from ingest.errors import ConfigError, SourceError
from ingest.layout import genes_key, index_blocks_key, index_key, survey_key
from ingest.mixing import MixingMeter
from ingest.opened import genes_to_bytes
from ingest.plan import Identity, Plan, Provenance
from ingest.plan_index import IndexWriter, batch_rows
from ingest.profile import Profile, ProfileBuilder
from ingest.scratch import Scratch
from ingest.survey.table import surveys_to_bytes
from ingest.vocabulary import dataset_genes
from ingest.window_order import SOURCE_ORDER, run_rows
from ingest.window_profile import WindowProfileBuilder
from ingest.window_sort import shuffle_cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ingest.cells import Cells
    from ingest.genes import Genes
    from ingest.mixing import Mixedness
    from ingest.settings import DataSettings, WorkSettings
    from ingest.source import Source
    from ingest.survey.model import SourceSurvey
    from ingest.window_order import WindowOrder
    from ingest.window_sort import Shuffled

__all__ = ["Draft", "draft_plan", "mixing_facts", "profile_builder"]

_MOST_TARGET = 1e12
"""From 1 to this, no count of a cell becomes 0 or infinite in float32."""
_UNCUT_SHARE = 16
"""A CSC file with more stored bytes than this part of a worker's memory is read by one worker."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A plan that is not committed yet, with all that a commit writes."""

    plan: Plan
    surveys: tuple[SourceSurvey, ...]
    genes: Genes
    profile: Profile
    """What the plan's chunks ask of their sources."""
    files: Mapping[str, bytes | Path]
    """Role -> bytes, or where they are on scratch."""
    scratch: Scratch

    def close(self) -> None:
        """Remove what is on scratch; also done when nobody has the draft any more, or the process ends."""
        self.scratch.close()


def draft_plan(
    cells: Cells,
    surveys: Sequence[SourceSurvey],
    settings: DataSettings,
    work: WorkSettings,
    *,
    created: str,
    versions: Mapping[str, str],
    recorded: Mapping[str, Any],
) -> Draft:
    """Plan the dataset.

    Parameters
    ----------
    cells
        In source order, with sources as the index has them.
    surveys
        One a source, in the order of ``cells.sources``.
    work
        Of which memory and scratch matter.
    created, versions, recorded
        Provenance.

    Raises
    ------
    ConfigError
        Settings that cannot be, genes that are nowhere, coordinates beyond a source, no room on scratch.
    """
    _check_settings(settings)
    _check_rows(cells, surveys)
    _check_distinct(surveys)
    pinned = cells.with_sources(tuple(survey.source for survey in surveys))
    genes = dataset_genes([survey.genes for survey in surveys if survey.fault is None], settings.genes)
    _check_genes(genes)
    scratch = Scratch(work.scratch)
    order, meter = settings.order, MixingMeter(len(pinned), settings.cells_per_chunk)
    digest = CellsDigest()
    builder = profile_builder(surveys, len(pinned), settings.cells_per_chunk, len(genes), work, order)
    with scratch.guarded(), IndexWriter(scratch.path / "index.feather") as index:
        shuffled = None if order is None else _shuffled(pinned, surveys, settings, order, scratch)
        for batch in read_ahead((shuffled or pinned).batches(batch_rows(settings.cells_per_chunk))):
            digest.add(batch.table)
            builder.add(batch.codes, batch.coordinates, batch.table)
            index.add(batch.table)
            if shuffled is not None:
                meter.add(batch)
    identity = Identity(
        cells=digest.hexdigest(),
        n_cells=len(pinned),
        sources=tuple(str(survey.source) for survey in surveys),
        matrices=tuple(survey.matrix for survey in surveys),
        genes=genes.digest,
        n_genes=len(genes),
        order=SOURCE_ORDER if order is None else str(order),
        cells_per_chunk=settings.cells_per_chunk,
        format=settings.format,
        dtype=settings.dtype,
        codec=settings.codec,
        level=settings.level,
        allow_noninteger=settings.allow_noninteger,
        normalize=settings.normalize,
    )
    small = {
        "blocks": index.blocks.to_bytes(),
        "survey": surveys_to_bytes(surveys),
        "genes": genes_to_bytes(genes),
    }
    sha256 = {"index": index.sha256, **{role: sha256_hex(data) for role, data in small.items()}}
    keys = {
        "index": index_key(sha256["index"][:32]),
        "blocks": index_blocks_key(sha256["blocks"][:32]),
        "survey": survey_key(sha256["survey"][:32]),
        "genes": genes_key(sha256["genes"][:32]),
    }
    settings_used = {**asdict(settings), **recorded}
    mixing = None if shuffled is None else mixing_facts(meter, shuffled.before)
    plan = Plan(identity, Provenance(created, dict(versions), settings_used, mixing), keys, sha256)
    return Draft(plan, tuple(surveys), genes, builder.finish(), {"index": index.path, **small}, scratch)


def profile_builder(
    surveys: Sequence[SourceSurvey],
    n_cells: int,
    cells_per_chunk: int,
    n_genes: int,
    work: WorkSettings,
    order: WindowOrder | None = None,
) -> ProfileBuilder | WindowProfileBuilder:
    """Return what counts, cell by cell, how the chunks of a plan lie in their sources."""
    uncut_bytes = work.memory_bytes // _UNCUT_SHARE
    if order is not None:
        return WindowProfileBuilder(
            surveys, n_cells, cells_per_chunk, order.cells, uncut_bytes=uncut_bytes, n_genes=n_genes
        )
    return ProfileBuilder(surveys, n_cells, cells_per_chunk, uncut_bytes=uncut_bytes, n_genes=n_genes)


def mixing_facts(meter: MixingMeter, before: Mixedness) -> dict[str, Any]:
    """Return how mixed the chunks are in the plan's order, and would have been in source order, in bits."""
    after = meter.finish()
    return {
        "origin": meter.origin,
        "whole_bits": round(after.whole_bits, 4),
        "before": {"mean_bits": round(before.mean_bits, 4), "min_bits": round(before.min_bits, 4)},
        "after": {"mean_bits": round(after.mean_bits, 4), "min_bits": round(after.min_bits, 4)},
    }


def _shuffled(
    cells: Cells, surveys: Sequence[SourceSurvey], settings: DataSettings, order: WindowOrder, scratch: Scratch
) -> Shuffled:
    runs = run_rows(surveys, order.cells)
    return shuffle_cells(cells, order, runs, scratch.path, cells_per_chunk=settings.cells_per_chunk)


def _check_settings(settings: DataSettings) -> None:
    check_codec(settings.format, settings.codec, settings.level, settings.dtype)
    if settings.cells_per_chunk < 1:
        raise ConfigError(f"-c {settings.cells_per_chunk}: a chunk holds at least one cell", kind="bad-chunk-size")
    if settings.allow_noninteger and settings.dtype != "float32":
        raise ConfigError(f"--allow-noninteger with --dtype {settings.dtype}: fractions need float32", kind="bad-dtype")
    if settings.normalize is None:
        return
    if settings.dtype != "float32":
        raise ConfigError(f"--normalize with --dtype {settings.dtype}: fractions need float32", kind="bad-dtype")
    if not 1 <= settings.normalize <= _MOST_TARGET:
        message = f"--target-sum {settings.normalize:g}: a number from 1 to {_MOST_TARGET:g}"
        raise ConfigError(message, kind="bad-target-sum")


def _check_genes(genes: Genes) -> None:
    bad = next((gene for gene, name in zip(genes.ids, genes.names, strict=True) if "\0" in gene + name), None)
    if bad is not None:
        raise SourceError(f"gene {bad!r} or its name holds a NUL character, which HDF5 cannot", kind="bad-gene-id")


def _check_distinct(surveys: Sequence[SourceSurvey]) -> None:
    seen: set[Source] = set()
    for survey in surveys:
        if survey.source in seen:
            raise ConfigError(
                f"the index names {survey.source} twice, with its version and without",
                kind="duplicate-source",
                hint="give all its cells one and the same text in the column 'source'",
            )
        seen.add(survey.source)


def _check_rows(cells: Cells, surveys: Sequence[SourceSurvey]) -> None:
    for survey, largest in zip(surveys, cells.largest.tolist(), strict=True):
        if survey.fault is None and largest >= survey.n_obs:
            raise ConfigError(
                f"{survey.source} has {survey.n_obs:,} cells; the index asks for number {largest:,}",
                kind="row-out-of-range",
                hint="the index was made for another version of this source; index again",
            )
