"""Everything that opens an h5ad file of somebody else's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from ingest import stream
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.h5ad import H5adFetcher
from ingest.fetch.h5ad_obs import iter_obs, obs_columns, obs_names
from ingest.fetch.h5ad_open import file_version, open_h5ad
from ingest.settings import DataSettings, WorkSettings
from ingest.source import Source, address_of
from ingest.stream.labels import infer_columns
from ingest.stream.matrix.rewrite import rewrite
from ingest.survey.h5ad import survey_h5ad
from ingest.testing.datasets import SilentObserver, make_dataset
from ingest.testing.entry_points.base import EntryPoint, command
from ingest.testing.hostile.good import N_CELLS, N_GENES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["H5AD"]

_BUDGET_BYTES = 1 << 24


def _index(path: Path, scratch: Path) -> Any:
    output = scratch / "index.feather"
    command("index", "h5ad", str(path), "-o", str(output))
    return pd.read_feather(output).drop(columns="source")


def _fetch(path: Path, scratch: Path) -> Any:
    """Go the whole way of a file: obs as an index reads it, survey, all rows."""
    source = Source.parse(str(path))
    with open_h5ad(source) as file:
        batches = list(iter_obs(file, list(obs_columns(file)), 10))
        names = obs_names(file, np.arange(sum(len(batch) for batch in batches)))
    survey = survey_h5ad(source, allow_noninteger=True)
    fetcher = H5adFetcher(survey, survey.genes, FetchOptions(), FetchLimits(_BUDGET_BYTES, 1, scratch))
    try:
        block = fetcher.read(np.arange(survey.n_obs))
    finally:
        fetcher.close()
    counts = block.counts
    return names, batches, survey.genes.ids, counts.indptr, counts.indices, counts.data


def _survey(path: Path, _: Path) -> Any:
    survey = survey_h5ad(Source.parse(str(path)))
    return survey.n_obs, survey.layout, survey.genes.ids, survey.matrix


def _run(path: Path, scratch: Path) -> Any:
    """Ingest all cells by an index made by hand: what is bad must be quarantined and named, the worker go on."""
    source = str(Source("h5ad", address_of(str(path)), file_version(address_of(str(path)))))
    index = scratch / "index.feather"
    pd.DataFrame({"source": source, "row": range(N_CELLS)}).to_feather(index)
    observer = SilentObserver()
    made = make_dataset(
        str(scratch / "dest"),
        index,
        data=DataSettings(cells_per_chunk=12),
        work=WorkSettings(workers=1, pool="serial"),
        observer=observer,
    )
    for failure in observer.failures:
        if failure.kind == "unforeseen":
            raise RuntimeError(failure.message)
        if made.report.exit_code == 0:
            raise RuntimeError(f"complete in spite of {failure.message}")
    contents = [receipt.chunks[0].content for receipt in made.opened.ledger.receipts()]
    return sorted({failure.kind for failure in observer.failures}), made.report.exit_code, contents


def _memmap(path: Path, scratch: Path) -> Any:
    from ingest.load.memmap import SingleCellMemMapDataset

    archive = SingleCellMemMapDataset(str(scratch / "archive"), h5ad_path=str(path), use_X_not_raw=True)
    try:
        return (
            np.array(archive.row_index),
            np.array(archive.col_index),
            np.array(archive.data),
            archive.number_of_variables(),
        )
    finally:
        del archive


def _uns(path: Path, _: Path) -> Any:
    return {key: entry.load() for key, entry in stream.AnnData(path).uns.items()}


def _to_memory(path: Path, _: Path) -> Any:
    whole = stream.AnnData(path).to_memory()
    return whole.X, whole.obs, whole.var, dict(whole.obsm)


def _written(operation: Callable[[Path, Path], Any]) -> Callable[[Path, Path], Any]:
    """Return the entry point that makes another file of one, whose matrix is read with plain h5py."""

    def read(path: Path, scratch: Path) -> Any:
        operation(path, scratch / "out.h5ad")
        with h5py.File(scratch / "out.h5ad") as made:
            if "X" not in made:  # as it was in what was read: not there, or a thing that holds no numbers
                return None
            matrix = made["X"]
            parts = matrix.values() if isinstance(matrix, h5py.Group) else (matrix,)
            return [part[()] for part in parts]

    return read


def _changed(change: Callable[[Path], Any]) -> Callable[[Path, Path], Any]:
    """Return the entry point that changes a copy of a file in place."""

    def read(path: Path, scratch: Path) -> Any:
        copy = scratch / path.name
        shutil.copyfile(path, copy)
        change(copy)
        return stream.load_obs(copy)

    return read


def _subset(path: Path, output: Path) -> None:
    cells, genes = np.arange(N_CELLS) != 12, np.arange(N_GENES) != 20
    stream.write_filtered_subset(path, cell_mask=cells, gene_mask=genes, output_path=output, chunk_size=5)


def _blocks(path: Path, _: Path) -> Any:
    return [list(stream.iter_matrix_chunks(path, axis=axis, chunk_size=7)) for axis in (0, 1)]


def _table(size: int) -> pd.DataFrame:
    return pd.DataFrame(index=range(size))


H5AD: tuple[EntryPoint, ...] = (
    EntryPoint("index", _index),
    EntryPoint("survey", _survey),
    EntryPoint("fetch", _fetch),
    EntryPoint("run", _run),
    EntryPoint("memmap", _memmap),
    EntryPoint("stream obs", lambda path, _: stream.load_obs(path)),
    EntryPoint("stream var", lambda path, _: stream.load_var(path)),
    EntryPoint("stream column", lambda path, _: stream.AnnData(path).obs["score"]),
    EntryPoint("stream extents", lambda path, _: stream.AnnData(path).shape),
    EntryPoint("stream uns", _uns),
    EntryPoint("stream handle", lambda path, _: repr(stream.read_h5ad_ondisk(path).shape)),
    EntryPoint("stream memory", _to_memory),
    EntryPoint("stream blocks", _blocks),
    EntryPoint("stream storage", lambda path, _: stream.get_matrix_storage_format(path)),
    EntryPoint("stream labels", lambda path, _: repr(infer_columns(path, verbose=False))),
    EntryPoint("stream qc", lambda path, _: repr(stream.calculate_adaptive_qc_thresholds(path, "cell_type"))),
    EntryPoint("convert csc", _written(lambda path, out: stream.convert_to_csc(path, output_path=out, verbose=False))),
    EntryPoint("convert normalize", _written(lambda path, out: stream.normalize_total_log1p(path, out, verbose=False))),
    EntryPoint("convert subset", _written(_subset)),
    EntryPoint(
        "convert rows", _written(lambda path, out: rewrite(path, out, rows=np.arange(N_CELLS)[::-1], layout="csr"))
    ),
    EntryPoint("write obs", _changed(lambda path: stream.write_obs(path, _table(N_CELLS)))),
    EntryPoint("write obsm", _changed(lambda path: stream.write_obsm_to_h5ad(path, "k", np.ones((N_CELLS, 2))))),
    EntryPoint("write uns", _changed(lambda path: stream.write_uns_dict_to_h5ad(path, "k", {"a": 1}))),
)
