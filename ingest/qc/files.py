"""What a second run or a loader takes: the cells that stay as an index, genes as a list, all metrics as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.layout import QC_CELLS_KEY, QC_GENE_LIST_KEY, QC_GENES_KEY, QC_INDEX_KEY
from ingest.qc.find import held_batches
from ingest.qc.parameters import CELL_RULES, said_rules
from ingest.qc.table import mito_pct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.genes import Genes
    from ingest.qc.find import QcFound, QcRequest

__all__ = ["write_files"]

Array = np.ndarray[Any, Any]

_ROWS = 1 << 16
_CELLS = pa.schema(
    [
        ("n_genes_by_counts", pa.int32()),
        ("total_counts", pa.float64()),
        ("total_counts_mt", pa.float64()),
        ("pct_counts_mt", pa.float64()),
        ("kept", pa.bool_()),
        ("dropped_by", pa.dictionary(pa.int32(), pa.string())),
    ]
)
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def write_files(request: QcRequest, found: QcFound, folder: Path) -> dict[str, Path]:
    """Write them into a folder of scratch; return key -> file.

    All are written whatever the rules, so that none of an earlier result stays beside those of a later one.

    ::

        qc_index.feather    the plan's rows of the cells that stay, all columns: `run --index`
        qc_genes.txt        ids of the genes that stay: `run --gene-filter @`
        qc_cells.feather    a row a cell of the dataset, in its order: n_genes_by_counts (int32), total_counts,
                            total_counts_mt, pct_counts_mt (float64; null where no mitochondrial gene is known, or the
                            cell has no counts), kept (bool), dropped_by (the first rule it breaks; null: it stays)
        qc_genes.feather    a row a gene: gene_id, gene_name, mt (bool), n_cells_by_counts (int64), mean_counts,
                            pct_dropout_by_counts, total_counts (float64), n_cells_kept (int64, where a rule is about
                            genes), kept (bool)
    """
    files = {key: folder / key for key in (QC_CELLS_KEY, QC_GENES_KEY, QC_INDEX_KEY, QC_GENE_LIST_KEY)}
    _write(files[QC_CELLS_KEY], _CELLS, _cell_batches(request, found))
    genes = _genes(request, found)
    _write(files[QC_GENES_KEY], genes.schema, iter([genes]))
    _write(files[QC_INDEX_KEY], request.data.opened.index.rows(0, 1).schema, _index_batches(request, found))
    files[QC_GENE_LIST_KEY].write_text(_gene_list(request, found), encoding="utf-8")
    return files


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=_LZ4) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _index_batches(request: QcRequest, found: QcFound) -> Iterator[pa.RecordBatch]:
    first = 0
    for table in held_batches(request.data):
        kept = found.table.rows(first, first + len(table))["flags"] == 0
        first += len(table)
        # Dictionaries are the same in all batches, as the plan's index has them: a file may not replace one.
        yield from table.filter(pa.array(kept)).combine_chunks().to_batches()


def _cell_batches(request: QcRequest, found: QcFound) -> Iterator[pa.RecordBatch]:
    rules = pa.array(CELL_RULES, pa.string())
    for start in range(0, len(found.table), _ROWS):
        cells = found.table.rows(start, start + _ROWS)
        kept, pct = cells["flags"] == 0, mito_pct(cells)
        unknown = np.full(len(cells), not request.mito.any())
        columns = [
            pa.array(cells["n_genes"]),
            pa.array(cells["total"]),
            pa.array(cells["mito"], mask=unknown),
            pa.array(pct, mask=unknown | np.isnan(pct)),
            pa.array(kept),
            pa.DictionaryArray.from_arrays(pa.array(_first_rule(cells["flags"]), mask=kept), rules),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=_CELLS)


def _first_rule(flags: Array) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the place among the rules of the first that each cell breaks, int32 ``(n,)``; 0 where it breaks none."""
    lowest = flags & (~flags + np.uint32(1))
    found: np.ndarray[Any, np.dtype[np.int32]] = np.log2(np.maximum(lowest, 1)).astype(np.int32)
    return found


def _genes(request: QcRequest, found: QcFound) -> pa.RecordBatch:
    genes, metrics = request.data.opened.genes, found.genes
    n_cells = metrics.moments.n_cells
    counted = {} if metrics.n_cells_kept is None else {"n_cells_kept": pa.array(metrics.n_cells_kept)}
    columns = {
        "gene_id": pa.array(genes.ids, pa.string()),
        "gene_name": pa.array(genes.names, pa.string()),
        "mt": pa.array(request.mito),
        "n_cells_by_counts": pa.array(metrics.moments.detected),
        "mean_counts": pa.array(metrics.moments.mean),
        "pct_dropout_by_counts": pa.array((1 - metrics.moments.detected / n_cells) * 100),
        "total_counts": pa.array(np.array(metrics.totals, np.float64)),
        **counted,
        "kept": pa.array(metrics.kept),
    }
    return pa.RecordBatch.from_pydict(columns)


def _gene_list(request: QcRequest, found: QcFound) -> str:
    genes: Genes = request.data.opened.genes
    kept = [gene for gene, stays in zip(genes.ids, found.genes.kept.tolist(), strict=True) if stays]
    document = request.rules.document()
    said = said_rules({name: document[name] for name in ("min_cells", "min_cells_pct") if name in document})
    return "\n".join([f"# {len(kept)} of {len(genes)} genes; rules of genes: {said}", *kept, ""])
