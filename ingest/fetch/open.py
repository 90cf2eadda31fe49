"""Open the fetcher that fits a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ingest.fetch.base import Fetcher, FetchLimits, FetchOptions
    from ingest.genes import Genes
    from ingest.survey.model import Layout, SourceSurvey

__all__ = ["import_readers", "open_fetcher"]


def import_readers(layouts: Collection[Layout]) -> None:
    """Import what reads sources of these layouts, libraries included.

    Raises
    ------
    ConfigError
        ``cpu-no-avx2``: importing what reads a Census would kill the process.
    """
    if "soma" in layouts:
        from ingest.cpu import require_avx2

        require_avx2()
        import cellxgene_census  # noqa: F401  # it takes a second, which is no part of the first unit

        import ingest.fetch.soma
    if set(layouts) - {"soma"}:
        import ingest.fetch.h5ad  # noqa: F401  # for its effect on sys.modules


def open_fetcher(survey: SourceSurvey, genes: Genes, options: FetchOptions, limits: FetchLimits) -> Fetcher:
    """Open `survey.source` at its surveyed version, in this process.

    Raises
    ------
    SourceError, TransientError, ConfigError
        As the source's own opening does; the fault that its survey found.
    """
    if survey.fault is not None:
        fault = survey.fault
        raise SourceError(fault.message, kind=fault.kind, hint=fault.hint, source=str(survey.source))
    if survey.layout == "soma":
        from ingest.fetch.soma import SomaFetcher

        return SomaFetcher(survey, genes, options, limits)
    from ingest.fetch.h5ad import H5adFetcher

    return H5adFetcher(survey, genes, options, limits)
