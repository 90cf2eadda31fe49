"""Is a sample of a scBaseCount what its catalogue says? Judged once after the survey, and cell by cell when read. Pure.

What is wrong with one file of thousands holds back the chunks with its cells and nothing else: the survey keeps the
fault, and whoever opens the file meets it again (`ingest.fetch.open.open_fetcher`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import SourceError
from ingest.genes import Genes
from ingest.scbasecount import BARCODE, CELLS_OF_SAMPLE, place_of
from ingest.survey.model import Fault, SourceSurvey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.source import Source

__all__ = ["check_cells", "faulty_survey", "judge_samples"]


def faulty_survey(source: Source, error: SourceError) -> SourceSurvey:
    """Return what stands in for the survey of a sample that cannot be surveyed."""
    return SourceSurvey(
        source=source,
        n_obs=0,
        layout="csr",
        matrix="",
        dtype="float32",
        nnz=0,
        band_rows=1,
        stored_bytes=0,
        names_unique=True,
        genes=Genes((), (), ()),
        presence={},
        integer=True,
        datasets={},
        fault=Fault(error.kind, error.message, error.hint),
    )


def judge_samples(
    surveys: Sequence[SourceSurvey], largest: np.ndarray[Any, np.dtype[np.int64]]
) -> tuple[SourceSurvey, ...]:
    """Return the surveys, with a fault where a sample is not what its neighbours or the index say.

    Samples of one release, feature and organism were counted against one list of genes: one that differs from the
    list of more than half of them has ``other-genes``. One with fewer cells than the index asks for has
    ``other-cells``.

    Parameters
    ----------
    largest
        int64 ``(n_sources,)``: the largest row that the index asks of each.
    """
    usual = _usual_genes(surveys)
    return tuple(_judged(survey, usual, int(last)) for survey, last in zip(surveys, largest, strict=True))


def _usual_genes(surveys: Sequence[SourceSurvey]) -> dict[tuple[str, str, str], tuple[str, int]]:
    """Return folder -> digest of the genes that more than half of its samples have, and how many samples it has."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for survey in surveys:
        place = place_of(survey.source)
        if place is not None and survey.fault is None:
            counts.setdefault(place.folder, Counter())[survey.genes.digest] += 1
    usual = {}
    for folder, digests in counts.items():
        digest, most = digests.most_common(1)[0]
        if 2 * most > digests.total():
            usual[folder] = (digest, digests.total())
    return usual


def _judged(survey: SourceSurvey, usual: dict[tuple[str, str, str], tuple[str, int]], last: int) -> SourceSurvey:
    place = place_of(survey.source)
    if place is None or survey.fault is not None:
        return survey
    digest, n_beside = usual.get(place.folder, (survey.genes.digest, 0))
    if survey.genes.digest != digest:
        said = f"{place.accession}: its {len(survey.genes):,} genes are not those of the other {n_beside - 1:,} samples"
        return _with_fault(survey, Fault("other-genes", said, None))
    if last >= survey.n_obs:
        said = f"{place.accession}: the index asks for cells that its file of {survey.n_obs:,} cells does not have"
        return _with_fault(survey, Fault("other-cells", said, "index again if the file has changed"))
    return survey


def _with_fault(survey: SourceSurvey, fault: Fault) -> SourceSurvey:
    return replace(survey, fault=fault, presence={}, datasets={})


def check_cells(survey: SourceSurvey, obs: pa.Table, names: pa.StringArray | None) -> None:
    """Hold cells that were read against what the index says of them.

    Parameters
    ----------
    obs
        Their rows of the index ``(n_cells,)``.
    names
        The names ``(n_cells,)`` that the file has at the rows read.

    Raises
    ------
    SourceError
        ``other-cells``: another barcode stands at the row of one of them; ``obs-count``: the file has another number
        of cells than its catalogue says.
    """
    if names is None or place_of(survey.source) is None:
        return
    label, source = survey.source.label, str(survey.source)
    if CELLS_OF_SAMPLE in obs.column_names:
        promised = pc.unique(obs[CELLS_OF_SAMPLE].combine_chunks()).drop_null().to_pylist()
        wrong = [count for count in promised if count == count and count != survey.n_obs]
        if wrong:
            message = f"{label}: the file has {survey.n_obs:,} cells, sample_metadata says {int(wrong[0]):,}"
            raise SourceError(message, kind="obs-count", source=source)
    if BARCODE in obs.column_names:
        same = pc.fill_null(pc.equal(_texts(obs[BARCODE]), names), True)
        if not pc.all(same).as_py():
            at = int(np.flatnonzero(~same.to_numpy(zero_copy_only=False))[0])
            message = (
                f"{label}: {names[at].as_py()} stands at row {obs['row'][at].as_py():,}, "
                f"the index promises {obs[BARCODE][at].as_py()}"
            )
            hint = "index again, and without --trust-order: other cells are in the file, or in another order"
            raise SourceError(message, kind="other-cells", hint=hint, source=source)


def _texts(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return (
        whole.dictionary_decode().cast(pa.string()) if pa.types.is_dictionary(whole.type) else whole.cast(pa.string())
    )
