"""anndata's AnnLoader on a file opened backed: a batch is as many rows from anywhere."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
from anndata.experimental import AnnLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.loading_settings import LoadSettings

__all__ = ["open_loader"]


def open_loader(place: str, settings: LoadSettings) -> _AnnLoader:
    """Open an h5ad file."""
    return _AnnLoader(place, settings)


class _AnnLoader:
    def __init__(self, place: str, settings: LoadSettings) -> None:
        np.random.seed(settings.seed)  # noqa: NPY002  # its sampler draws from the global generator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it is deprecated in favour of annbatch
            self._loader: Any = AnnLoader(
                [anndata.read_h5ad(place, backed="r")],
                batch_size=settings.batch_cells,
                shuffle=True,
                use_default_converter=settings.form == "dense",
            )

    def epoch(self, number: int) -> Iterator[Any]:  # noqa: ARG002  # numpy's generator goes on by itself
        for batch in self._loader:
            yield batch.X  # read only now
