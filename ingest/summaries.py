"""The dataset's summaries: pure functions of plan, surveys, index and receipts."""

from __future__ import annotations

import io
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.genes import Genes
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.plan import Plan
    from ingest.survey.model import SourceSurvey

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
        self.experiments = _experiments(opened, self.table)


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
    yield PRESENCE_KEY, _presence(dataset)
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


# -- samples and datasets ------------------------------------------------------------------------------------------


def _experiments(opened: OpenPlan, table: pa.Table) -> dict[str, dict[str, Any]]:
    """Return one entry a dataset of a Census, or a file: its cells here, and what its source says of it."""
    groups = _sample_column(opened, table)
    entries: dict[str, dict[str, Any]] = {}
    known = {
        _sample(opened, number, name): facts
        for number, survey in enumerate(opened.surveys)
        for name, facts in survey.datasets.items()
    }
    organisms = dict(zip(opened.labels, (survey.source.organism for survey in opened.surveys), strict=True))
    tissues = _tissues(table, groups)
    counts = pc.value_counts(groups).to_pylist()
    for name, count in sorted((entry["values"], entry["counts"]) for entry in counts):
        facts: Mapping[str, str] = known.get(name, {})
        entries[name] = {"accession": name, "n_cells": count, "tissue": tissues.get(name), **facts}
        entries[name].setdefault("organism", organisms.get(name) or None)
    return entries


def _sample(opened: OpenPlan, number: int, name: str) -> str:
    """Return what source `number` calls `name` as the dataset calls it: file names repeat, labels do not."""
    return name if opened.surveys[number].layout == "soma" else opened.labels[number]


def _sample_column(opened: OpenPlan, table: pa.Table) -> pa.Array:
    """Return the sample of every cell: dataset_id in a Census, otherwise the label of the source."""
    label_of = dict(zip(opened.plan.identity.sources, opened.labels, strict=True))
    source = table["source"].combine_chunks()
    labels = pa.array([label_of.get(text, text) for text in source.dictionary.to_pylist()])
    by_source = labels.take(source.indices)
    if "dataset_id" not in table.column_names or not pa.types.is_dictionary(table["dataset_id"].type):
        return by_source
    datasets = table["dataset_id"].combine_chunks().dictionary_decode()
    is_soma = pc.greater_equal(table["soma_joinid"].combine_chunks(), 0)
    return pc.if_else(pc.and_(is_soma, pc.is_valid(datasets)), datasets, by_source)


def _tissues(table: pa.Table, groups: pa.Array) -> dict[str, str]:
    """Return the tissues of every sample, most frequent first, joined by ``; ``."""
    if "tissue" not in table.column_names or not pa.types.is_dictionary(table["tissue"].type):
        return {}
    pairs = pa.table({"sample": groups, "tissue": table["tissue"].combine_chunks().dictionary_decode()})
    counted = pairs.group_by(["sample", "tissue"]).aggregate([([], "count_all")]).drop_null().to_pylist()
    counted.sort(key=lambda row: (row["sample"], -row["count_all"], row["tissue"]))
    tissues: dict[str, list[str]] = {}
    for row in counted:
        tissues.setdefault(row["sample"], []).append(row["tissue"])
    return {sample: "; ".join(names) for sample, names in tissues.items()}


def _presence(dataset: Dataset) -> bytes:
    """Return an npz of ``presence`` bool (n_datasets, n_genes), ``datasets`` and ``genes``: measured there at all."""
    opened = dataset.opened
    rows: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for number, survey in enumerate(opened.surveys):
        # An index without dataset_id does not say which datasets of a Census its cells come from: all, then.
        wanted = [name for name in survey.presence if _sample(opened, number, name) in dataset.experiments]
        for name in wanted or survey.presence:
            sample, row = _sample(opened, number, name), _onto(survey, name, opened.genes)
            rows[sample] = rows[sample] | row if sample in rows else row
    names = sorted(rows)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        presence=np.array([rows[name] for name in names], bool).reshape(len(names), len(opened.genes)),
        datasets=np.array(names, np.str_),
        genes=np.array(opened.genes.ids, np.str_),
    )
    return buffer.getvalue()


def _onto(survey: SourceSurvey, name: str, genes: Genes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    present = survey.presence[name]
    mapping = survey.genes.map_onto(genes)
    if mapping is None:
        return present
    row = np.zeros(len(genes), bool)
    kept = mapping >= 0
    row[mapping[kept]] = present[kept]
    return row


def _cells(dataset: Dataset) -> bytes:
    """Return obs of all cells of the chunks that exist, in order, uncompressed so that it maps into memory."""
    return _feather(dataset.table.combine_chunks(), compression=None)


def _feather(table: pa.Table, *, compression: str | None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data
