"""The dataset's summaries: pure functions of plan, surveys, index and receipts."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.digest import digest_of_digests
from ingest.documents import readable
from ingest.layout import (
    CELLS_KEY,
    CHUNK_INDEX_KEY,
    CHUNK_OFFSETS_KEY,
    CHUNK_SUMMARY_KEY,
    CONFIG_KEY,
    EXPERIMENTS_KEY,
    GENE_LIST_KEY,
    PRESENCE_KEY,
    PROCESSING_KEY,
    SUCCESS_KEY,
)
from ingest.samples import experiments_of, presence_npz

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.genes import Genes
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.plan import Plan

__all__ = ["Dataset", "dataset_digest", "summaries"]


class Dataset:
    """What the summaries are made of: a plan and the receipts of the chunks that exist, in order."""

    def __init__(self, opened: OpenPlan, table: pa.Table, chunks: Sequence[ChunkReceipt]) -> None:
        """`table` has all rows of the plan; those of missing chunks are left out of everything."""
        self.opened, self.chunks = opened, chunks
        self.plan = opened.plan
        self.complete = len(chunks) == self.plan.n_chunks
        self.n_cells = sum(chunk.n_cells for chunk in chunks)
        self.nnz = sum(chunk.nnz for chunk in chunks)
        self.bytes = sum(chunk.size for chunk in chunks)
        self.table = table if self.complete else _rows_of(opened.plan, table, chunks)
        self.experiments = experiments_of(opened, self.table)


def _rows_of(plan: Plan, table: pa.Table, chunks: Sequence[ChunkReceipt]) -> pa.Table:
    ranges = [plan.rows(chunk.chunk) for chunk in chunks]
    return pa.concat_tables([table.slice(start, stop - start) for start, stop in ranges] or [table.slice(0, 0)])


def dataset_digest(chunks: Sequence[ChunkReceipt]) -> str:
    """Return the content digest of a whole dataset: equal data, equal digests, whatever machine wrote them."""
    return digest_of_digests(chunk.content for chunk in chunks)


def summaries(dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """Yield key and bytes of every summary, ``_SUCCESS.json`` last and only for a complete dataset."""
    yield GENE_LIST_KEY, readable(_gene_list(dataset.opened.genes))
    yield CHUNK_INDEX_KEY, readable(_chunk_index(dataset))
    yield CHUNK_OFFSETS_KEY, _chunk_offsets(dataset.chunks)
    yield CHUNK_SUMMARY_KEY, readable(_chunk_summary(dataset))
    yield PROCESSING_KEY, readable(_processing(dataset))
    yield CONFIG_KEY, readable(_config(dataset))
    yield EXPERIMENTS_KEY, readable({"complete": dataset.complete, "experiments": dataset.experiments})
    yield PRESENCE_KEY, presence_npz(dataset.opened, dataset.experiments)
    yield CELLS_KEY, _cells(dataset)
    if dataset.complete:
        yield SUCCESS_KEY, readable(_success(dataset))


def _whole(value: float) -> float:
    """Spell whole numbers as JSON integers."""
    return int(value) if float(value).is_integer() else value


def _gene_list(genes: Genes) -> dict[str, Any]:
    return {"n_genes": len(genes), "ids": genes.ids, "names": genes.names, "lengths": genes.lengths}


def _chunk_index(dataset: Dataset) -> dict[str, Any]:
    return {
        "complete": dataset.complete,
        "n_chunks": dataset.plan.n_chunks,
        "chunks": [_chunk_entry(dataset, chunk) for chunk in dataset.chunks],
    }


def _chunk_entry(dataset: Dataset, chunk: ChunkReceipt) -> dict[str, Any]:
    start, stop = dataset.plan.rows(chunk.chunk)
    return {
        "chunk": chunk.chunk,
        "key": chunk.key,
        "first_cell": start,
        "end_cell": stop,
        "n_cells": chunk.n_cells,
        "nnz": chunk.nnz,
        "sum": _whole(chunk.sum),
        "maximum": _whole(chunk.maximum),
        "dtype": chunk.dtype,
        "sources": {dataset.plan.identity.sources[number]: cells for number, cells in chunk.sources},
        "samples": [dataset.opened.labels[number] for number, _ in chunk.sources],
        "sha256": chunk.sha256,
        "content": chunk.content,
        "bytes": chunk.size,
        **({"notes": chunk.notes} if chunk.notes else {}),
    }


def _chunk_offsets(chunks: Sequence[ChunkReceipt]) -> bytes:
    parts = [(chunk.chunk, part) for chunk in chunks for part in chunk.offsets]
    lengths = np.array([len(part.offsets) for _, part in parts], np.int64)
    which = pa.array(np.repeat(np.arange(len(parts)), lengths))
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    table = {
        "chunk": pa.array([chunk for chunk, _ in parts], pa.int32()).take(which),
        "dataset": pa.array([part.dataset for _, part in parts], pa.string()).dictionary_encode().take(which),
        "hdf5_chunk": pa.array((np.arange(len(firsts)) - firsts).astype(np.int32)),
        "elements": pa.array([part.chunk_shape[0] for _, part in parts], pa.int64()).take(which),
        "offset": pa.array([offset for _, part in parts for offset in part.offsets], pa.int64()),
        "size": pa.array([size for _, part in parts for size in part.sizes], pa.int64()),
    }
    return _feather(pa.table(table), compression="zstd")


def _chunk_summary(dataset: Dataset) -> dict[str, Any]:
    plain = sum(chunk.nnz * (4 + np.dtype(chunk.dtype).itemsize) + 8 * (chunk.n_cells + 1) for chunk in dataset.chunks)
    return {
        "complete": dataset.complete,
        "n_chunks": len(dataset.chunks),
        "n_cells": dataset.n_cells,
        "n_genes": len(dataset.opened.genes),
        "nnz": dataset.nnz,
        "bytes": dataset.bytes,
        "bytes_per_cell": dataset.bytes / max(1, dataset.n_cells),
        "bytes_uncompressed_csr": plain,
        "compression_ratio": plain / max(1, dataset.bytes),
        "per_chunk": {
            "n_cells": _spread([chunk.n_cells for chunk in dataset.chunks]),
            "nnz": _spread([chunk.nnz for chunk in dataset.chunks]),
            "bytes": _spread([chunk.size for chunk in dataset.chunks]),
        },
    }


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    return {"min": min(values), "median": median(values), "max": max(values)}


def _processing(dataset: Dataset) -> dict[str, Any]:
    document = dataset.plan.document()
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for chunk in dataset.chunks:
        dropped.update(chunk.dropped)
        notes.update(chunk.notes)
    return {
        "plan": dataset.plan.identity.digest,
        "data": document["identity"],
        "settings": document["provenance"]["settings"],
        "versions": document["provenance"]["versions"],
        "created": document["provenance"]["created"],
        "dropped_cells": dict(sorted(dropped.items())),
        "chunks_with_note": dict(sorted(notes.items())),
    }


def _config(dataset: Dataset) -> dict[str, Any]:
    entries = dataset.n_cells * len(dataset.opened.genes)
    return {
        "complete": dataset.complete,
        "total_cells_downloaded": dataset.n_cells,
        "n_batches": len(dataset.chunks),
        "batch_size": dataset.plan.identity.cells_per_chunk,
        "n_genes": len(dataset.opened.genes),
        "gene_list": dataset.opened.genes.ids,
        "max_expression_value": _whole(max((chunk.maximum for chunk in dataset.chunks), default=0)),
        "sparsity": 1 - dataset.nnz / entries if entries else 0.0,
        "download_timestamp": dataset.plan.provenance.created,
        "source_samples": [
            {
                "srx_accession": name,
                "n_cells": entry["n_cells"],
                "tissue": entry.get("tissue"),
                "organism": entry.get("organism"),
            }
            for name, entry in dataset.experiments.items()
        ],
    }


def _success(dataset: Dataset) -> dict[str, Any]:
    return {
        "digest": dataset_digest(dataset.chunks),
        "plan": dataset.plan.identity.digest,
        "n_cells": dataset.n_cells,
        "n_chunks": len(dataset.chunks),
        "nnz": dataset.nnz,
        "bytes": dataset.bytes,
    }


def _cells(dataset: Dataset) -> bytes:
    """Return obs of all cells of the chunks that exist, in order, uncompressed so that it maps into memory."""
    return _feather(dataset.table.combine_chunks(), compression=None)


def _feather(table: pa.Table, *, compression: str | None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data
