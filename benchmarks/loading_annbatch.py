"""annbatch, as its documentation sets it up: a sharded collection of its own making, read through zarrs.

Runs in an environment of its own (Python 3.12). ``python -m benchmarks.loading_annbatch H5AD CELLS COLLECTION``
converts, with that many cells in a zarr chunk. zarrs reads local files alone: from a bucket it is zarr's own pipeline.
Dense it is by way of scipy's ``toarray``: torch's ``to_dense`` of a CSR tensor takes four times as long.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import torch
import zarr
import zarrs  # noqa: F401  # registers the pipeline that is named below
from annbatch import DatasetCollection
from annbatch import Loader as AnnbatchLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.loading_settings import LoadSettings

__all__ = ["open_loader"]

warnings.filterwarnings("ignore", category=UserWarning, module="zarr")  # strings in zarr 3


def open_loader(place: str, settings: LoadSettings) -> _Annbatch:
    """Open a collection."""
    return _Annbatch(place, settings)


class _Annbatch:
    def __init__(self, place: str, settings: LoadSettings) -> None:
        loader: Any = AnnbatchLoader(
            batch_size=settings.batch_cells,
            chunk_size=settings.block_cells,
            preload_nchunks=settings.buffer_cells // settings.block_cells,
            shuffle=True,
            to=None if settings.form == "dense" else "torch",
            rng=np.random.default_rng(settings.seed),
        )
        self._loader = loader.use_collection(DatasetCollection(_open_group(place)), load_adata=_load)
        self._dense = settings.form == "dense"

    def epoch(self, number: int) -> Iterator[Any]:  # noqa: ARG002  # its generator goes on by itself
        for batch in self._loader:
            yield torch.from_numpy(batch["X"].toarray()) if self._dense else batch["X"]


def _open_group(place: str) -> Any:
    if "://" not in place:
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        return zarr.open_group(place, mode="r")
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    zarr.config.set({"async.concurrency": 64})  # 10 by default, which waits for distance
    options = {"endpoint": os.environ["AWS_ENDPOINT_URL"], "region": "us-east-1"}
    bucket = from_url(place, client_options={"allow_http": True}, **options)
    return zarr.open_group(ObjectStore(bucket, read_only=True), mode="r")


def _load(group: zarr.Group) -> Any:
    """Take X and one column of obs: all columns, its default, are slower."""
    obs = anndata.io.read_elem(group["obs"])[["cell_type"]]
    return anndata.AnnData(X=anndata.io.sparse_dataset(group["X"]), obs=obs)


def main(h5ad: str, chunk_cells: str, collection: str) -> None:
    """Make a collection of one file as annbatch does by default: shuffled, sharded, Blosc's lz4."""
    DatasetCollection(collection).add_adatas([h5ad], n_obs_per_chunk=int(chunk_cells), rng=np.random.default_rng(0))


if __name__ == "__main__":
    main(*sys.argv[1:])
