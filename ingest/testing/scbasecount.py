"""Build a scBaseCount to play with and to test against: the bucket's real layout in a folder, made-up cells, seeded."""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from ingest.testing.scbasecount_model import Folder, SampleModel, ScBaseCountSpec, draw_folder, is_older

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["BuiltScBaseCount", "ScBaseCountSpec", "build_scbasecount", "cached_scbasecount", "put_scbasecount"]

_SINCE_2026 = ("antibody_derived_tag", "czi_collection_id", "czi_collection_name")
"""Columns that the first release does not have: it has 14."""


@dataclass(frozen=True, slots=True)
class BuiltScBaseCount:
    """A scBaseCount in a folder, for ``index scbasecount --root``."""

    path: Path
    spec: ScBaseCountSpec
    """What it was built from."""

    def file(self, accession: str, *, release: str, feature: str, organism: str) -> Path:
        """Return the file of one sample."""
        return self.path / release / "h5ad" / feature / organism / f"{accession}.h5ad"


def cached_scbasecount(
    cache_dir: Path, spec: ScBaseCountSpec, *, progress: Callable[[int, int], None] | None = None
) -> BuiltScBaseCount:
    """Return the scBaseCount of `spec`, built into `cache_dir` unless it is there already.

    It appears under its name only when it is whole; of two processes at once the second waits for the first.

    Parameters
    ----------
    progress
        As in :func:`build_scbasecount`; not called when nothing is built.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    path = cache_dir / f"scbasecount-{spec.digest}"
    with (cache_dir / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_name(f"{path.name}.partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            build_scbasecount(unfinished, spec, progress=progress)
            unfinished.rename(path)
    return BuiltScBaseCount(path, spec)


def build_scbasecount(
    path: Path, spec: ScBaseCountSpec, *, progress: Callable[[int, int], None] | None = None
) -> BuiltScBaseCount:
    """Write the scBaseCount of `spec` to the new folder `path`.

    Parameters
    ----------
    progress
        Called with folders done and folders in all.

    Raises
    ------
    FileExistsError
        There is something at `path`.
    """
    path.mkdir(parents=True)
    folders = [(r, f, o) for r in spec.releases for f in spec.features for o in spec.organisms]
    for done, (release, feature, organism) in enumerate(folders, start=1):
        _write_folder(path, spec, release, feature, organism)
        if progress is not None:
            progress(done, len(folders))
    return BuiltScBaseCount(path, spec)


def _write_folder(path: Path, spec: ScBaseCountSpec, release: str, feature: str, organism: str) -> None:
    folder = draw_folder(spec, release, feature, organism)
    with_types = not is_older(release)
    files = path / release / "h5ad" / feature / organism
    tables = path / release / "metadata" / feature / organism
    files.mkdir(parents=True)
    tables.mkdir(parents=True)
    for sample in folder.samples:
        _write_file(files / f"{sample.accession}.h5ad", folder, sample, with_types=with_types)
    where = f"{spec.file_root}/{release}/h5ad/{feature}/{organism}"
    pq.write_table(_sample_metadata(folder, where, older=not with_types), tables / "sample_metadata.parquet")
    cells = pa.concat_tables([_obs_metadata(sample, with_types=with_types) for sample in folder.samples])
    pq.write_table(cells, tables / "obs_metadata.parquet", row_group_size=spec.row_group)


def _matrix(sample: SampleModel, n_genes: int) -> Any:
    counts = sample.counts
    return sparse.csr_matrix((counts.data, counts.indices, counts.indptr), (len(sample.barcodes), n_genes))


def _obs(sample: SampleModel, *, with_types: bool) -> dict[str, Any]:
    counts = sample.counts
    n_cells = len(sample.barcodes)
    rows = np.repeat(np.arange(n_cells), np.diff(counts.indptr))
    found: dict[str, Any] = {
        "gene_count": np.diff(counts.indptr).astype(np.int64),
        "umi_count": np.bincount(rows, weights=counts.data, minlength=n_cells).astype(np.int64),
        "SRX_accession": np.full(n_cells, sample.accession),
    }
    return found | ({"cell_type": sample.cell_type} if with_types else {})


def _write_file(path: Path, folder: Folder, sample: SampleModel, *, with_types: bool) -> None:
    matrix = _matrix(sample, len(folder.gene_ids))
    obs = pd.DataFrame(_obs(sample, with_types=with_types), index=sample.barcodes)
    for name in ("SRX_accession", "cell_type"):
        if name in obs:
            obs[name] = obs[name].astype("category")
    var = pd.DataFrame({"gene_symbols": folder.gene_names}, index=folder.gene_ids)
    laid = matrix.toarray() if sample.layout == "dense" else matrix.asformat(sample.layout)
    compression = "gzip" if sample.layout == "csr" else None
    anndata.AnnData(laid, obs=obs, var=var).write_h5ad(path, compression=compression)


def _sample_metadata(folder: Folder, where: str, *, older: bool) -> pa.Table:
    rows = []
    for sample in folder.samples:
        facts = dict(sample.facts)
        head = {"entrez_id": facts.pop("entrez_id"), "srx_accession": sample.accession}
        row = {**head, "file_path": f"{where}/{sample.accession}.h5ad", **facts}
        rows.append({name: value for name, value in row.items() if not (older and name in _SINCE_2026)})
    table = pa.Table.from_pylist(rows)
    # A column without any value has no type of its own; the real one has texts.
    text = [pa.string() if pa.types.is_null(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, text, strict=True))))


def _obs_metadata(sample: SampleModel, *, with_types: bool) -> pa.Table:
    columns = {"cell_barcode": sample.barcodes, **_obs(sample, with_types=with_types)}
    return pa.table({name: pa.array(values) for name, values in columns.items()}).take(pa.array(sample.metadata_order))


def put_scbasecount(built: BuiltScBaseCount, url: str, filesystem: Any) -> str:
    """Copy all files below `url`, a bucket or prefix of an fsspec `filesystem`; return `url`."""
    root = url.split("://", 1)[-1].rstrip("/")
    for file in sorted(built.path.rglob("*")):
        if file.is_file():
            filesystem.pipe_file(f"{root}/{file.relative_to(built.path).as_posix()}", file.read_bytes())
    return url
