"""From what a person names to a plan: sources found, each looked at, the archive's types settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.errors import ConfigError
from ingest.grammar import did_you_mean
from ingest.load.memmap.convert.opening import survey_source
from ingest.load.memmap.convert.plan import make_plan
from ingest.load.memmap.convert.sources import find_sources
from ingest.load.memmap.names import INT_ORDER

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from ingest.load.memmap.convert.opening import ReadOptions, Surveyed
    from ingest.load.memmap.convert.plan import ConversionPlan
    from ingest.load.memmap.convert.sources import SourceName

__all__ = ["AUTO", "draft_plan"]

AUTO = "auto"
"""The data type that asks for the smallest unsigned one that holds all counts."""


def draft_plan(
    words: Sequence[str | os.PathLike[str]],
    options: ReadOptions,
    *,
    data_dtype: str | None = None,
    tolerance: float = 1e-8,
    neighbor_key: str | None = None,
    looked_at: Callable[[int, int], None] = lambda _done, _all: None,
) -> ConversionPlan:
    """Find the sources, look at each, and plan the archive of all.

    Parameters
    ----------
    words
        Datasets that `run` wrote, h5ad files, folders of them, patterns; see `find_sources`.
    data_dtype
        float32 unless said; ``auto`` for the smallest that is known to hold the counts of datasets that `run` wrote.
    looked_at
        Is told how many of how many sources have been looked at.

    Raises
    ------
    ConfigError
        There is no such source, type or setting, or nothing to store.
    IngestError
        A source cannot be opened.
    """
    names = find_sources(words)
    surveyed: list[Surveyed] = []
    for name in names:
        surveyed.append(survey_source(name, options))
        looked_at(len(surveyed), len(names))
    if neighbor_key is not None:
        _check_pairs(neighbor_key, surveyed)
    return make_plan(
        [one.source for one in surveyed],
        data_dtype=_smallest(names, surveyed) if data_dtype == AUTO else data_dtype,
        use_x=options.use_x and any(name.kind == "h5ad" for name in names),
        neighbor_key=neighbor_key,
        tolerance=tolerance,
    )


def _check_pairs(key: str, surveyed: Sequence[Surveyed]) -> None:
    """Check that one source at least has the neighbours that are asked for."""
    known = {name for one in surveyed for name in one.pair_keys}
    if key not in known:
        there = ", ".join(sorted(known)) or "nothing"
        said = f"no source has obsp[{key!r}]{did_you_mean(key, known)}"
        raise ConfigError(said, kind="no-neighbors", hint=f"obsp has {there}")


def _smallest(names: Sequence[SourceName], surveyed: Sequence[Surveyed]) -> str:
    for name, one in zip(names, surveyed, strict=True):
        if one.smallest_dtype is None:
            why = "its largest value is not known before it is read" if name.kind == "h5ad" else "it may hold fractions"
            hint = "name a type by --data-dtype; values that it does not hold are refused"
            raise ConfigError(f"--data-dtype auto: {name.label}: {why}", kind="auto-dtype", hint=hint)
    return max((one.smallest_dtype for one in surveyed if one.smallest_dtype), key=INT_ORDER.index)
