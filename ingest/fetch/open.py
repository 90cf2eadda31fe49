"""Open the fetcher that fits a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.fetch.base import Fetcher, FetchLimits, FetchOptions
    from ingest.genes import Genes
    from ingest.survey.model import SourceSurvey

__all__ = ["open_fetcher"]


def open_fetcher(survey: SourceSurvey, genes: Genes, options: FetchOptions, limits: FetchLimits) -> Fetcher:
    """Open `survey.source` at its surveyed version, in this process.

    Raises
    ------
    SourceError, TransientError, ConfigError
        As the source's own opening does.
    """
    if survey.layout == "soma":
        from ingest.fetch.soma import SomaFetcher

        return SomaFetcher(survey, genes, options, limits)
    from ingest.fetch.h5ad import H5adFetcher

    return H5adFetcher(survey, genes, options, limits)
