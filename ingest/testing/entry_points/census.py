"""Everything that opens a Census in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.soma import SomaFetcher
from ingest.source import Source
from ingest.survey.soma import survey_soma
from ingest.testing.entry_points.base import EntryPoint, command

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CENSUS"]

_MOST_ROWS = 300
_MEMORY_BYTES = 1 << 24


def _index(path: Path, scratch: Path) -> Any:
    output = scratch / "out.feather"
    command("index", "census", "--uri", str(path), "--value-filter", "tissue_general != 'nowhere'", "-o", str(output))
    return pd.read_feather(output).drop(columns="source")


def _counts(path: Path, scratch: Path) -> Any:
    """Survey it and read counts, as a run does."""
    limits = FetchLimits(_MEMORY_BYTES, 1, scratch)
    survey = survey_soma(Source("soma", str(path), "", "homo_sapiens"), limits, datasets=None)
    fetcher = SomaFetcher(survey, survey.genes, FetchOptions(), limits)
    try:
        counts = fetcher.read(np.arange(min(_MOST_ROWS, survey.n_obs))).counts
    finally:
        fetcher.close()
    return survey.n_obs, survey.genes.ids, counts.indptr, counts.indices, counts.data


CENSUS: tuple[EntryPoint, ...] = (EntryPoint("index census", _index), EntryPoint("counts", _counts))
