"""A finished dataset to train from: cell types to be found, donors and samples, highly variable genes chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ingest.layout import HVG_KEY
from ingest.settings import DataSettings
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.h5ad_files import write_h5ad_variant
from ingest.testing.hvg_data import varied_counts

__all__ = ["make_training_dataset"]


def make_training_dataset(folder: Path, *, n_cells: int = 600, n_genes: int = 120, n_donors: int = 7) -> str:
    """Write `n_cells` into chunks of 100, with ``donor_id``, ``SRX_accession`` and hvg_info.json; return the folder.

    Donor ``d3`` has the cells whose number is 3 modulo `n_donors`; samples are runs of 150 cells. The genes of
    hvg_info.json are those of the largest variance over mean, as `hvg` chooses them.
    """
    counts = varied_counts(n_cells, n_genes, seed=3)
    file = write_h5ad_variant(folder / "cells.h5ad", counts)
    index = write_h5ad_index(folder / "index.feather", [file])
    table = pd.read_feather(index)
    table["donor_id"] = pd.Categorical([f"d{row % n_donors}" for row in range(n_cells)])
    table["SRX_accession"] = pd.Categorical([f"SRX{row // 150}" for row in range(n_cells)])
    table.to_feather(index)
    made = make_dataset(str(folder / "dataset"), index, data=DataSettings(cells_per_chunk=100))
    dense = counts.toarray()
    order = np.argsort(-dense.var(axis=0) / dense.mean(axis=0).clip(1e-9), kind="stable")
    names = [made.opened.genes.ids[gene] for gene in order]
    (Path(made.url.removeprefix("file://")) / HVG_KEY).write_text(json.dumps({"hvg_names": names}))
    return made.url
