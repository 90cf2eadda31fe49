"""From cells, surveys and settings to a plan with the files that it names. Pure: nothing is read or written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.digest import cells_digest
from ingest.documents import sha256_hex
from ingest.encode.open import check_codec
from ingest.errors import ConfigError, SourceError
from ingest.layout import genes_key, index_key, survey_key
from ingest.memory import MemoryPlan, plan_memory
from ingest.opened import genes_to_bytes
from ingest.plan import Identity, Plan, Provenance, check_dtype
from ingest.plan_index import index_to_bytes
from ingest.profile import Profile, ProfileBuilder
from ingest.survey.table import surveys_to_bytes
from ingest.vocabulary import dataset_genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.cells import Cells
    from ingest.genes import Genes
    from ingest.settings import DataSettings
    from ingest.source import Source
    from ingest.survey.model import SourceSurvey

__all__ = ["Draft", "draft_plan", "profile_plan"]

_NUMERIC = 4
"""Bytes of one count in memory; uint16 is fetched as int32."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A plan that is not committed yet, with all that a commit writes."""

    plan: Plan
    cells: Cells
    surveys: tuple[SourceSurvey, ...]
    genes: Genes
    files: Mapping[str, bytes]
    """Role -> bytes."""


def draft_plan(
    cells: Cells,
    surveys: Sequence[SourceSurvey],
    settings: DataSettings,
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
    created, versions, recorded
        Provenance.

    Raises
    ------
    ConfigError
        Settings that cannot be, genes that are nowhere, coordinates beyond a source.
    """
    _check_settings(settings)
    _check_rows(cells, surveys)
    _check_distinct(surveys)
    pinned = cells.with_sources(tuple(survey.source for survey in surveys))
    genes = dataset_genes([survey.genes for survey in surveys], settings.genes)
    _check_genes(genes)
    identity = Identity(
        cells=cells_digest(pinned),
        n_cells=len(pinned),
        sources=tuple(str(survey.source) for survey in surveys),
        matrices=tuple(survey.matrix for survey in surveys),
        genes=genes.digest,
        n_genes=len(genes),
        order="source",
        cells_per_chunk=settings.cells_per_chunk,
        format=settings.format,
        dtype=settings.dtype,
        codec=settings.codec,
        level=settings.level,
        allow_noninteger=settings.allow_noninteger,
    )
    files = {
        "index": index_to_bytes(pinned.table, settings.cells_per_chunk),
        "survey": surveys_to_bytes(surveys),
        "genes": genes_to_bytes(genes),
    }
    sha256 = {role: sha256_hex(data) for role, data in files.items()}
    keys = {
        "index": index_key(sha256["index"][:32]),
        "survey": survey_key(sha256["survey"][:32]),
        "genes": genes_key(sha256["genes"][:32]),
    }
    settings_used = {**asdict(settings), **recorded}
    plan = Plan(identity, Provenance(created, dict(versions), settings_used), keys, sha256)
    return Draft(plan, pinned, tuple(surveys), genes, files)


def _check_settings(settings: DataSettings) -> None:
    check_dtype(settings.dtype)
    check_codec(settings.format, settings.codec, settings.level)
    if settings.cells_per_chunk < 1:
        raise ConfigError(f"-c {settings.cells_per_chunk}: a chunk holds at least one cell", kind="bad-chunk-size")
    if settings.allow_noninteger and settings.dtype != "float32":
        raise ConfigError(f"--allow-noninteger with --dtype {settings.dtype}: fractions need float32", kind="bad-dtype")


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
    # In plan order the last cell of a source has its largest coordinate; a mask a source would not do for thousands.
    lasts = np.searchsorted(cells.codes, np.arange(len(surveys)), side="right") - 1
    for survey, last in zip(surveys, cells.coordinates[lasts].tolist(), strict=True):
        if last >= survey.n_obs:
            raise ConfigError(
                f"{survey.source} has {survey.n_obs:,} cells; the index asks for number {last:,}",
                kind="row-out-of-range",
                hint="the index was made for another version of this source; index again",
            )


def profile_plan(
    cells: Cells, surveys: Sequence[SourceSurvey], plan: Plan, *, memory_bytes: int
) -> tuple[Profile, MemoryPlan]:
    """Return what each chunk asks of its sources, and how a worker's memory is divided for it.

    Raises
    ------
    ConfigError
        A chunk does not fit into `memory_bytes`.
    """
    identity = plan.identity
    builder = ProfileBuilder(
        surveys, len(cells), identity.cells_per_chunk, uncut_bytes=memory_bytes // 16, n_genes=identity.n_genes
    )
    builder.add(cells.codes, cells.coordinates, cells.table)
    profile = builder.finish()
    value_bytes = max(_NUMERIC, np.dtype(identity.dtype).itemsize)
    memory = plan_memory(
        profile,
        cells_per_chunk=min(identity.cells_per_chunk, identity.n_cells),
        value_bytes=value_bytes,
        limit=memory_bytes,
    )
    return profile, memory
