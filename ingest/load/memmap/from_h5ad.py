"""One h5ad file to one archive, in this process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ingest.load.memmap.archive import ArchiveSpec, ArrayFiles, describe
from ingest.load.memmap.attempt import Attempt
from ingest.load.memmap.convert.base import Place, loss_text
from ingest.load.memmap.convert.h5ad import H5adRows
from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex
from ingest.load.memmap.neighbors import NEIGHBOR_DTYPES

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.load.memmap.convert.base import LossyCast

__all__ = ["H5adOptions", "archive_of_h5ad", "warn_of_loss"]


@dataclass(frozen=True, slots=True)
class H5adOptions:
    """What is taken of a file, and as what."""

    data_dtype: str = "float32"
    tolerance: float = 1e-8
    """How far a cast may be off before it is warned of."""
    use_x: bool = False
    """X, not raw.X."""
    cutoff_mb: int = 10_000
    """From so many MB on casts are looked at by blocks of `block_rows`."""
    block_rows: int = 1_000_000
    var_name: str = "var_feature_id"
    obs_name: str = "obs_feature_id"
    neighbor_key: str | None = None
    """In obsp; None: no neighbours."""


def archive_of_h5ad(path: str | os.PathLike[str], h5ad: str | os.PathLike[str], options: H5adOptions) -> None:
    """Make the archive of a file: all of it, or nothing.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It lacks the matrix, or the matrix has no entries.
    IngestError
        It is damaged, or the disk is full.
    """
    staging = Attempt(path)
    source = H5adRows(h5ad, use_X_not_raw=options.use_x)
    try:
        spec = ArchiveSpec.smallest(source.n_rows, source.n_entries, source.n_columns, options.data_dtype)
        folder = staging.make()
        with ArrayFiles.create(folder, spec) as files:
            for name, place in _blocks(source, options):
                warn_of_loss(source.write(place, files, tolerance=options.tolerance).lossy, name)
        if options.neighbor_key is not None:
            _write_neighbors(source, folder, options.neighbor_key)
        var, obs = VariableFeatureIndex(), ObservedFeatureIndex()
        var.append_table(source.n_rows, source.var_features(options.var_name), source.label)
        obs.append_table(source.obs_features(options.obs_name), source.label)
        describe(folder, spec, var, obs)
        staging.commit()
    finally:
        source.close()
        staging.discard()


def warn_of_loss(lossy: LossyCast | None, of: str) -> None:
    """Warn of a cast that changes values, as bionemo-scdl does."""
    if lossy is not None:
        warnings.warn(loss_text(lossy, of), stacklevel=2)


def _blocks(source: H5adRows, options: H5adOptions) -> Iterator[tuple[str, Place]]:
    """Yield what is looked at together, by the name that bionemo-scdl gives it."""
    if source.size_bytes < options.cutoff_mb * 1_024**2:
        yield "Full Dataset", Place(0, source.n_rows, 0, 0)
        return
    firsts = np.arange(0, source.n_rows, max(options.block_rows, 1))
    for first, entry in zip(firsts.tolist(), source.entries_before(firsts).tolist(), strict=True):
        n_rows = min(options.block_rows, source.n_rows - first)
        yield f"Rows {first} to {first + options.block_rows - 1} of the dataset", Place(first, n_rows, first, entry)


def _write_neighbors(source: H5adRows, folder: Path, key: str) -> None:
    found = source.neighbors(key)
    if found is None:
        return
    for (name, dtype), array in zip(NEIGHBOR_DTYPES.items(), found, strict=True):
        array.astype(dtype, copy=False).tofile(folder / name.value)
