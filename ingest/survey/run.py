"""Surveying all sources of an index: in parallel, once, cached by what pins each source; twice what seems at fault."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.errors import CorruptError, IngestError, SourceError
from ingest.sample_check import faulty_survey
from ingest.scbasecount import place_of
from ingest.second_look import look_twice
from ingest.survey.table import surveys_from_bytes, surveys_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    import numpy as np

    from ingest.fetch.base import FetchLimits
    from ingest.genes import Genes
    from ingest.source import Source
    from ingest.survey.model import SourceSurvey

__all__ = ["SurveyOptions", "default_cache", "survey_again", "survey_sources"]

_FORMAT = 1
"""Raised when a survey's content changes, so that old cache entries are not read."""

_AT_ONCE = 16
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class SurveyOptions:
    """What a survey depends on beside the source."""

    layer: str | None = None
    strip_version: bool = False
    allow_noninteger: bool = False


def default_cache() -> Path:
    """Return the folder where surveys of pinned sources are kept for the next run."""
    from platformdirs import user_cache_path

    return user_cache_path("cell-ingest") / "surveys"


def survey_sources(
    sources: Sequence[Source],
    datasets: Sequence[Collection[str] | None],
    options: SurveyOptions,
    limits: FetchLimits,
    *,
    cache: Path | None,
    on_done: Callable[[Source], None] = lambda _: None,
) -> tuple[SourceSurvey, ...]:
    """Survey every source; samples of a scBaseCount that are at fault come back with their fault.

    Parameters
    ----------
    datasets
        For each source, the dataset ids whose presence is wanted; None for all.
    cache
        Where surveys are kept; None keeps none.
    on_done
        Called as each source has been surveyed.

    Raises
    ------
    IngestError
        The first source, in order, that cannot be surveyed; of samples only when none can.
    """
    surveys, faults = _survey_all(sources, datasets, options, limits, cache, on_done)
    if faults and all(found.fault is not None for found in surveys):
        raise faults[surveys[0].source]
    return surveys


def survey_again(
    surveys: Sequence[SourceSurvey],
    numbers: Sequence[int],
    datasets: Sequence[Collection[str] | None],
    options: SurveyOptions,
    limits: FetchLimits,
    *,
    cache: Path | None,
) -> tuple[SourceSurvey, ...]:
    """Return `surveys` with those of `numbers` made anew, past the cache: what is held against them may be a bad read.

    Raises
    ------
    IngestError
        As `survey_sources`, but for faults: these are in the surveys.
    """
    accused = [surveys[number].source for number in numbers]
    found, _ = _survey_all(accused, [datasets[number] for number in numbers], options, limits, cache, fresh=True)
    anew = dict(zip(numbers, found, strict=True))
    return tuple(_shared(anew.get(number, survey) for number, survey in enumerate(surveys)))


def _survey_all(
    sources: Sequence[Source],
    datasets: Sequence[Collection[str] | None],
    options: SurveyOptions,
    limits: FetchLimits,
    cache: Path | None,
    on_done: Callable[[Source], None] = lambda _: None,
    *,
    fresh: bool = False,
) -> tuple[tuple[SourceSurvey, ...], dict[Source, SourceError]]:
    """Survey every source; return, too, what is wrong with those that come back with a fault."""
    faults: dict[Source, SourceError] = {}

    def survey(source: Source, wanted: Collection[str] | None) -> SourceSurvey:
        try:
            found = look_twice(lambda: _cached(source, wanted, options, limits, cache, fresh=fresh))
        except SourceError as error:
            if place_of(source) is None:
                raise
            faults[source], found = error, faulty_survey(source, error)
        on_done(source)
        return found

    with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(sources)))) as pool:
        return tuple(_shared(pool.map(survey, sources, datasets))), faults


def _shared(surveys: Iterable[SourceSurvey]) -> Iterator[SourceSurvey]:
    """Give surveys that have equal genes one and the same: thousands of files have one list of 36,601."""
    known: dict[object, Genes] = {}
    rows: dict[bytes, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for survey in surveys:
        genes = known.setdefault((survey.genes.digest, survey.genes.names, survey.genes.lengths), survey.genes)
        presence = {name: rows.setdefault(row.tobytes(), row) for name, row in survey.presence.items()}
        yield replace(survey, genes=genes, presence=presence)


def _cached(
    source: Source,
    datasets: Collection[str] | None,
    options: SurveyOptions,
    limits: FetchLimits,
    cache: Path | None,
    *,
    fresh: bool,
) -> SourceSurvey:
    pinned = _pin(source)
    path = None if cache is None or not pinned.version else cache / f"{_cache_key(pinned, datasets, options)}.survey"
    if path is not None and not fresh:
        with contextlib.suppress(OSError, IngestError):
            return _read_cached(path)
    found = _survey(pinned, datasets, options, limits)
    if path is not None:
        # A cache that cannot be written costs a second survey, nothing else.
        with contextlib.suppress(OSError):
            data = surveys_to_bytes([found])
            _write_atomically(path, hashlib.sha256(data).digest() + data)
    return found


def _read_cached(path: Path) -> SourceSurvey:
    digest, data = (whole := path.read_bytes())[:_DIGEST], whole[_DIGEST:]
    # A flipped bit would otherwise be another gene, or another number of cells.
    if hashlib.sha256(data).digest() != digest:
        raise CorruptError(f"{path} does not fit its own digest", key=str(path))
    return surveys_from_bytes(data, key=str(path))[0]


def _pin(source: Source) -> Source:
    """Give an h5ad its present version where the index names none."""
    if source.kind != "h5ad" or source.version:
        return source
    from ingest.fetch.h5ad_open import file_version

    return replace(source, version=file_version(source.address))


def _cache_key(source: Source, datasets: Collection[str] | None, options: SurveyOptions) -> str:
    wanted = "all" if datasets is None else "\n".join(sorted(datasets))
    return hashlib.sha256(f"{_FORMAT}\n{source}\n{options}\n{wanted}".encode()).hexdigest()[:32]


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _survey(
    source: Source, datasets: Collection[str] | None, options: SurveyOptions, limits: FetchLimits
) -> SourceSurvey:
    if source.kind == "h5ad":
        from ingest.survey.h5ad import survey_h5ad

        return survey_h5ad(
            source,
            layer=options.layer,
            strip_version=options.strip_version,
            allow_noninteger=options.allow_noninteger,
            line=limits.line,
        )
    from ingest.survey.soma import survey_soma

    return survey_soma(source, limits, datasets=datasets)
