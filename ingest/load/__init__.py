"""Train from chunks: open datasets, read cells in any order, batches as tensors.

::

    dataset      ChunkedCells: cells by number, id or obs; counts, obs, AnnData
    order/       which cells come when: samplers, which see none
    read/        the cells: byte ranges -> inflated blocks -> rows of a window
    stream       windows read ahead, cut into batches
    transform/   what is done with counts on the way: normalised values, tokens
    torch/       tensors, datasets and loaders

Importing this package imports none of Ray, tiledbsoma and torch; names below that need torch import it when they are
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.load.dataset import ChunkedCells, open_chunks
    from ingest.load.files import ReadSettings
    from ingest.load.torch.create import create_dataloader, create_hvg_dataloader
    from ingest.load.torch.datasets import ChunkDataset, HVGDataset, ScRNADataset, ShuffledCells
    from ingest.load.torch.loader import CellLoader

__all__ = [
    "CellLoader",
    "ChunkDataset",
    "ChunkedCells",
    "HVGDataset",
    "ReadSettings",
    "ScRNADataset",
    "ShuffledCells",
    "create_dataloader",
    "create_hvg_dataloader",
    "open_chunks",
]

_HOMES = {
    "CellLoader": "ingest.load.torch.loader",
    "ChunkDataset": "ingest.load.torch.datasets",
    "ChunkedCells": "ingest.load.dataset",
    "HVGDataset": "ingest.load.torch.datasets",
    "ReadSettings": "ingest.load.files",
    "ScRNADataset": "ingest.load.torch.datasets",
    "ShuffledCells": "ingest.load.torch.datasets",
    "create_dataloader": "ingest.load.torch.create",
    "create_hvg_dataloader": "ingest.load.torch.create",
    "open_chunks": "ingest.load.dataset",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"{name} needs PyTorch: pip install 'cell-ingest[torch]'", name="torch") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
