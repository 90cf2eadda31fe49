"""Everything that opens an index, a scBaseCount's tables, a file of settings, one chunk or an archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ingest.cells import read_cells
from ingest.cli.config_file import read_settings
from ingest.encode.decode import decode_chunk, decode_counts, decode_names
from ingest.preparing import draft_dataset
from ingest.settings import DataSettings, WorkSettings
from ingest.testing.entry_points.base import EntryPoint, command
from ingest.validate import check_counts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ARCHIVE", "CHUNK", "CONFIG", "INDEX", "SCBASECOUNT"]

_RELEASE = ("2026-01-12", "GeneFull_Ex50pAS", "Homo_sapiens")


def _plan(path: Path, _: Path) -> Any:
    """Plan a run of the index, as `run --index` does before it starts anything."""
    cells = read_cells(path)
    try:
        draft = draft_dataset(cells, DataSettings(cells_per_chunk=12), WorkSettings(workers=1), cache=None)
        return draft.plan.identity.document()
    finally:
        cells.close()


def _select(path: Path, scratch: Path) -> Any:
    output = scratch / "out.feather"
    command("index", "select", str(path), "--cells", "10", "-o", str(output))
    return pd.read_feather(output)


def _scbasecount(path: Path, scratch: Path) -> Any:
    output = scratch / "out.feather"
    release, feature, organism = _RELEASE
    words = ("--root", str(path), "--release", release, "--feature", feature, "--organism", organism)
    command("index", "scbasecount", *words, "--cells", "300", "--trust-order", "-o", str(output))
    return pd.read_feather(output).drop(columns="source")


def _chunk(path: Path, _: Path) -> Any:
    block = decode_chunk(path.read_bytes(), key=path.name)
    check_counts(block.counts, source=path.name, allow_noninteger=True)
    counts = block.counts
    return counts.indptr, counts.indices, counts.data, block.obs, block.obs_names, block.genes.ids, block.genes.names


def _chunk_pieces(path: Path, _: Path) -> Any:
    data = path.read_bytes()
    pieces = [
        (piece.indptr, piece.indices, piece.data) for piece in decode_counts(data, key=path.name, most_entries=64)
    ]
    return pieces, decode_names(data, key=path.name)


def _archive(path: Path, _: Path) -> Any:
    from ingest.load.memmap import SingleCellMemMapDataset

    archive = SingleCellMemMapDataset(str(path), mode="r")
    rows = archive.get_rows(np.arange(archive.number_of_rows()))
    features = archive.get_row(0, return_var_features=True)[1]
    obs = [archive.get_row(row, return_obs_features=True)[2] for row in (0, archive.number_of_rows() - 1)]
    return rows.indptr, rows.columns, rows.values, features, obs, archive.shape()


def _loaded_archive(path: Path, _: Path) -> Any:
    from ingest.load.torch.create import create_dataloader

    loader = create_dataloader(str(path), 8, shuffle=False, form="csr")
    return [(X.to_dense().numpy(), metadata["cell_id"]) for X, metadata in loader]


def _run_config(path: Path, scratch: Path) -> Any:
    return command("run", str(scratch / "dest"), "--config", str(path), "--dry-run", "--json")


INDEX: tuple[EntryPoint, ...] = (
    EntryPoint("index show", lambda path, _: command("index", "show", str(path)).replace(str(path), "")),
    EntryPoint("index select", _select),
    EntryPoint("run --index", _plan),
)
SCBASECOUNT: tuple[EntryPoint, ...] = (EntryPoint("index scbasecount", _scbasecount),)
"""Of the folder of all releases."""
CHUNK: tuple[EntryPoint, ...] = (EntryPoint("decode", _chunk), EntryPoint("decode by pieces", _chunk_pieces))
ARCHIVE: tuple[EntryPoint, ...] = (
    EntryPoint("open", _archive, promised=(FileNotFoundError, ValueError)),
    EntryPoint("load", _loaded_archive, promised=(FileNotFoundError, ValueError)),
)
CONFIG: tuple[EntryPoint, ...] = (
    EntryPoint("settings", lambda path, _: read_settings(str(path))),
    EntryPoint("run --config", _run_config),
)
