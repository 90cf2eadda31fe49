"""Make samples of a scBaseCount bad in every way that a catalogue of thousands of files knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import anndata
import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DAMAGES", "Damage", "damage_sample"]

Damage = Literal["missing", "truncated", "other-genes", "no-counts", "obs-count", "other-cells"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)


def damage_sample(file: Path, damage: Damage) -> None:
    """Replace a sample's file by one that is no longer what its metadata say.

    ``missing`` and ``truncated`` concern the file; ``other-genes`` has one gene under another id; ``no-counts`` half a
    molecule; ``obs-count`` one cell more than its metadata say; ``other-cells`` its barcodes in another order.
    """
    if damage == "missing":
        file.unlink()
        return
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
        return
    data = anndata.read_h5ad(file)
    if damage == "other-genes":
        data.var.index = ["ENSG99999999999", *data.var_names[1:]]
    elif damage == "no-counts":
        matrix = sparse.csr_matrix(data.X)
        matrix.data[len(matrix.data) // 2] += 0.5
        data.X = matrix
    elif damage == "obs-count":
        more = data[:1].copy()
        more.obs_names = ["TTTTTTTTTTTTTTTT"]
        data = anndata.concat([data, more], merge="same")
    else:
        data.obs_names = np.roll(data.obs_names.to_numpy(), 1)
    data.write_h5ad(file)
