"""The ways of loading that are compared, and what each is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.loading_settings import LoadSettings

__all__ = ["FIRST", "WAYS", "WITH_WORKERS", "Way", "ways_for"]

_ALIKE = LoadSettings()
"""Blocks of 64 cells in a buffer of 8,192: our defaults. Buffers are as large as annbatch's README shows (32 x 256) and
scDataset's documentation (16 batches); a zarr chunk of annbatch's own making has 64 cells."""
_SMALL = replace(_ALIKE, block_cells=32)
_LARGE = replace(_ALIKE, block_cells=512, buffer_cells=16_384)
"""annbatch's defaults, for cells that are stored in shuffled order."""


@dataclass(frozen=True, slots=True)
class Way:
    """One loader on one kind of data with one setting."""

    name: str
    module: str
    place: str
    settings: LoadSettings = field(default_factory=LoadSettings)
    python: str = ""
    """Version of Python whose environment it runs in; empty for ours."""
    batches: int | None = None
    """Measured of an epoch, where a whole one takes minutes."""
    checked: int | None = None
    """Batches of an epoch, where taking in a whole one does; no fewer than are measured unless said."""

    def with_workers(self, workers: int) -> Way:
        """Return it with so many processes that load."""
        return replace(self, settings=replace(self.settings, workers=workers))


def _ours(name: str, place: str, settings: LoadSettings = _ALIKE) -> Way:
    return Way(name, "loading_ours", place, settings)


def _annbatch(name: str, place: str, settings: LoadSettings = _ALIKE) -> Way:
    return Way(name, "loading_annbatch", place, settings, "3.12")


_SPARSE = (
    _ours("ours, deflate", "ours-deflate"),
    _ours("ours, lz4", "ours-lz4"),
    _ours("ours, zstd", "ours-zstd"),
    _ours("ours, h5", "ours-h5"),
    _annbatch("annbatch", "annbatch-64.zarr"),
    Way("scDataset", "loading_scdataset", "whole.h5ad", _ALIKE, "3.11"),
    Way("scDataset, blocks of 16", "loading_scdataset", "whole.h5ad", replace(_ALIKE, block_cells=16), "3.11"),
    Way("bionemo-scdl", "loading_scdl", "scdl", replace(_ALIKE, block_cells=1, buffer_cells=1), "3.11"),
    Way("AnnLoader", "loading_annloader", "whole.h5ad", replace(_ALIKE, block_cells=1, buffer_cells=1), "3.11", 20),
    _ours("ours, lz4, blocks of 32", "ours-lz4", _SMALL),
    _annbatch("annbatch, blocks of 32", "annbatch-32.zarr", _SMALL),
    _ours("ours, lz4, blocks of 512", "ours-lz4", _LARGE),
    _annbatch("annbatch, blocks of 512", "annbatch-64.zarr", _LARGE),
)
_DENSE = {
    "ours, deflate": None,
    "ours, lz4": None,
    "ours, h5": None,
    "annbatch": 32,
    "scDataset": 32,
    "bionemo-scdl": 32,
    "AnnLoader": 10,
}
"""Batches of each, dense: whole buffers."""


def _dense(way: Way) -> Way:
    settings = replace(way.settings, form="dense")
    return replace(way, settings=settings, batches=_DENSE[way.name], checked=min(_DENSE[way.name] or 32, 32))


WAYS: tuple[Way, ...] = (*_SPARSE, *(_dense(way) for way in _SPARSE if way.name in _DENSE))
"""All that is compared without workers."""

WITH_WORKERS: tuple[Way, ...] = tuple(
    way for way in _SPARSE if way.name in ("ours, deflate", "ours, lz4", "scDataset", "bionemo-scdl")
)
"""Those meant to be used in several processes: annbatch says not to, and AnnLoader cannot collate its batches."""

FIRST: tuple[Way, ...] = (
    _ours("ours, deflate, 100 files", "ours-100"),
    *(way for way in _SPARSE if way.name in ("ours, lz4", "annbatch", "scDataset", "bionemo-scdl", "AnnLoader")),
)
"""Those whose first batch is waited for."""


def ways_for(ways: tuple[Way, ...], *, newer: bool, quick: bool) -> tuple[Way, ...]:
    """Return those that can run here.

    Parameters
    ----------
    newer
        There is a Python 3.12.
    quick
        Buffers small enough for little data.
    """
    able = [way for way in ways if newer or way.python != "3.12"]
    return tuple(_small(way) for way in able) if quick else tuple(able)


def _small(way: Way) -> Way:
    settings = replace(way.settings, buffer_cells=min(way.settings.buffer_cells, 2_048))
    return replace(way, settings=settings, batches=way.batches and 4, checked=way.checked and 4)
