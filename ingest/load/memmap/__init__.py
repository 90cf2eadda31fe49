"""Train from a local disk larger than memory: bionemo-scdl's interface and archive, fed by chunks as well as h5ad.

::

    names, dtypes, header    what an archive is
    archive, revise          how one is made, and changed, so that a half is never taken for one
    convert/                 rows of h5ad files and of chunks, in parallel, straight to their places
    features                 columns of var and obs
    dataset, collection      one archive; several
    rows, collate            many rows at once, as tensors
    cells                    an archive as the loader, its samplers and transforms have it

An import of bionemo-scdl becomes one of this package: ``from ingest.load.memmap import SingleCellMemMapDataset``.
Names that need torch import it when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.load.memmap.collate import collate_neighbor_sparse_matrix_batch, collate_sparse_matrix_batch
    from ingest.load.memmap.collection import SingleCellCollection
    from ingest.load.memmap.convert.api import create_archive
    from ingest.load.memmap.dataset import SingleCellMemMapDataset
    from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex
    from ingest.load.memmap.names import FileNames, Mode, NeighborSamplingStrategy

__all__ = [
    "FileNames",
    "Mode",
    "NeighborSamplingStrategy",
    "ObservedFeatureIndex",
    "SingleCellCollection",
    "SingleCellMemMapDataset",
    "VariableFeatureIndex",
    "collate_neighbor_sparse_matrix_batch",
    "collate_sparse_matrix_batch",
    "create_archive",
]

_HOMES = {
    "FileNames": "names",
    "Mode": "names",
    "NeighborSamplingStrategy": "names",
    "ObservedFeatureIndex": "features",
    "SingleCellCollection": "collection",
    "SingleCellMemMapDataset": "dataset",
    "VariableFeatureIndex": "features",
    "collate_neighbor_sparse_matrix_batch": "collate",
    "collate_sparse_matrix_batch": "collate",
    "create_archive": "convert.api",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"{name} needs PyTorch: pip install 'cell-ingest[torch]'", name="torch") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
