"""The dataset's summaries: pure functions of plan, surveys, index and receipts."""

from __future__ import annotations

import json
import sys
from array import array
from collections import Counter
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.digest import digest_of_digests
from ingest.documents import readable
from ingest.encode.open import FORMATS
from ingest.layout import (
    CELLS_JSON_KEY,
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
from ingest.samples import presence_npz

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ingest.amendments import LeftOut
    from ingest.genes import Genes
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.plan import Plan

__all__ = ["Dataset", "OffsetTable", "dataset_digest", "summaries"]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """What the summaries are made of: a plan and the receipts of the chunks that exist, in order."""

    opened: OpenPlan
    chunks: Sequence[ChunkReceipt]
    """Without their HDF5 offsets, which are in `offsets`."""
    offsets: OffsetTable
    experiments: Mapping[str, Mapping[str, Any]]
    """Sample -> its cells here and what is known of it."""
    cells: Path
    """Local file with obs of all cells of the chunks, in order."""
    cells_json: Path | None = None
    """The same as JSON, where it is wanted."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.opened.plan

    @property
    def complete(self) -> bool:
        """Whether no chunk is missing."""
        return len(self.chunks) == self.plan.n_chunks

    @property
    def n_cells(self) -> int:
        """Cells of the chunks that exist."""
        return sum(chunk.n_cells for chunk in self.chunks)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What the chunks that exist lack of the plan, whatever else amendments permit."""
        return self.opened.amendments.used_by(self.chunks).left_out

    @property
    def nnz(self) -> int:
        """Non-zeros of the chunks that exist."""
        return sum(chunk.nnz for chunk in self.chunks)

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that exist."""
        return sum(chunk.size for chunk in self.chunks)


class OffsetTable:
    """Where the HDF5 chunks of the files lie, column by column: a receipt's Python numbers would be ten times that."""

    def __init__(self) -> None:
        self._chunks, self._elements, self._lengths = array("i"), array("q"), array("q")
        self._datasets: list[str] = []
        self._offsets, self._sizes = array("q"), array("q")

    def add(self, chunk: ChunkReceipt) -> None:
        """Take the offsets of a chunk, which has not been taken before."""
        for part in chunk.offsets:
            self._chunks.append(chunk.chunk)
            self._datasets.append(sys.intern(part.dataset))
            self._elements.append(prod(part.chunk_shape))
            self._lengths.append(len(part.offsets))
            self._offsets.extend(part.offsets)
            self._sizes.extend(part.sizes)

    def table(self) -> pa.Table:
        """Return one row an HDF5 chunk, in the order of the files, whatever order they were taken in."""
        lengths = np.array(self._lengths, np.int64)
        which = pa.array(np.repeat(np.arange(len(lengths)), lengths))
        firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        columns = {
            "chunk": pa.array(np.array(self._chunks, np.int32)).take(which),
            "dataset": pa.array(self._datasets, pa.string()).dictionary_encode().take(which),
            "hdf5_chunk": pa.array((np.arange(len(firsts)) - firsts).astype(np.int32)),
            "elements": pa.array(np.array(self._elements, np.int64)).take(which),
            "offset": pa.array(np.array(self._offsets, np.int64)),
            "size": pa.array(np.array(self._sizes, np.int64)),
        }
        table = pa.table(columns)
        files = np.array(self._chunks, np.int32)
        if np.all(files[1:] >= files[:-1]):
            return table
        return table.take(pa.array(np.argsort(np.repeat(files, lengths), kind="stable")))


def dataset_digest(chunks: Sequence[ChunkReceipt]) -> str:
    """Return the content digest of a whole dataset: equal data, equal digests, whatever machine wrote them."""
    return digest_of_digests(chunk.content for chunk in chunks)


def summaries(dataset: Dataset) -> Iterator[tuple[str, bytes | Path]]:
    """Yield key and bytes, or local file, of every summary, ``_SUCCESS.json`` last and only of a complete dataset."""
    yield GENE_LIST_KEY, readable(_gene_list(dataset.opened.genes))
    yield CHUNK_INDEX_KEY, _chunk_index(dataset)
    yield CHUNK_OFFSETS_KEY, _mappable(dataset.offsets.table())
    yield CHUNK_SUMMARY_KEY, readable(_chunk_summary(dataset))
    yield PROCESSING_KEY, readable(_processing(dataset))
    yield CONFIG_KEY, readable(_config(dataset))
    yield EXPERIMENTS_KEY, readable({"complete": dataset.complete, "experiments": dataset.experiments})
    yield PRESENCE_KEY, presence_npz(dataset.opened, dataset.experiments)
    yield CELLS_KEY, dataset.cells
    if dataset.cells_json is not None:
        yield CELLS_JSON_KEY, dataset.cells_json
    if dataset.complete:
        yield SUCCESS_KEY, readable(_success(dataset))


def _whole(value: float) -> float:
    """Spell whole numbers as JSON integers."""
    return int(value) if float(value).is_integer() else value


def _gene_list(genes: Genes) -> dict[str, Any]:
    return {"n_genes": len(genes), "ids": genes.ids, "names": genes.names, "lengths": genes.lengths}


def _chunk_index(dataset: Dataset) -> bytes:
    """Return a JSON document with a line a chunk: 100,000 of them are encoded in seconds, and can be cut by line."""
    head = readable({"complete": dataset.complete, "n_chunks": dataset.plan.n_chunks}).decode().rstrip("\n }")
    lines = (json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in _chunk_entries(dataset))
    body = ",\n  ".join(lines)
    return f'{head},\n "chunks": [\n  {body}\n ]\n}}\n'.encode()


def _chunk_entries(dataset: Dataset) -> Iterator[dict[str, Any]]:
    dropped = 0
    for chunk in dataset.chunks:
        # Rows left out before it move a chunk up: a dataset's cells are numbered without gaps.
        first = dataset.plan.rows(chunk.chunk)[0] - dropped
        yield _chunk_entry(dataset, chunk, first) | ({"dropped": dict(chunk.dropped)} if chunk.dropped else {})
        dropped += sum(chunk.dropped.values())


def _chunk_entry(dataset: Dataset, chunk: ChunkReceipt, first: int) -> dict[str, Any]:
    return {
        "chunk": chunk.chunk,
        "key": chunk.key,
        "first_cell": first,
        "end_cell": first + chunk.n_cells,
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


def _chunk_summary(dataset: Dataset) -> dict[str, Any]:
    plain = sum(chunk.nnz * (4 + np.dtype(chunk.dtype).itemsize) + 8 * (chunk.n_cells + 1) for chunk in dataset.chunks)
    dense = {}
    if FORMATS[dataset.plan.identity.format].dense:
        plain_dense = sum(chunk.n_cells * np.dtype(chunk.dtype).itemsize for chunk in dataset.chunks)
        dense = {"bytes_uncompressed_dense": plain_dense * len(dataset.opened.genes)}
    return {
        "complete": dataset.complete,
        "n_chunks": len(dataset.chunks),
        "n_cells": dataset.n_cells,
        "n_genes": len(dataset.opened.genes),
        "nnz": dataset.nnz,
        "bytes": dataset.bytes,
        "bytes_per_cell": dataset.bytes / max(1, dataset.n_cells),
        "bytes_uncompressed_csr": plain,
        **dense,
        "compression_ratio": dense.get("bytes_uncompressed_dense", plain) / max(1, dataset.bytes),
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
    settings = dict(document["provenance"]["settings"])
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for chunk in dataset.chunks:
        dropped.update(chunk.dropped)
        notes.update(chunk.notes)
    return {
        "plan": dataset.plan.identity.digest,
        "data": document["identity"],
        "settings": {name: value for name, value in settings.items() if name != "quality_control"},
        "versions": document["provenance"]["versions"],
        "created": document["provenance"]["created"],
        **({"quality_control": quality} if (quality := settings.get("quality_control")) else {}),
        **({"mixing": document["provenance"]["mixing"]} if dataset.plan.provenance.mixing is not None else {}),
        "dropped_cells": dict(sorted(dropped.items())),
        "chunks_with_note": dict(sorted(notes.items())),
        **_left_out(dataset),
    }


def _left_out(dataset: Dataset) -> dict[str, Any]:
    """Return what `run --without-bad` left out, and why; nothing of a dataset that has all its cells."""
    sources = dataset.plan.identity.sources
    entries = [
        {
            "source": sources[entry.source],
            "kind": entry.kind,
            "message": entry.message,
            "n_cells": entry.n_cells,
            "chunks": [chunk for chunk, _ in entry.chunks],
        }
        for entry in dataset.left_out
    ]
    return {"left_out": entries} if entries else {}


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
        **dataset.plan.identity.about,
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
        **({"left_out_cells": dropped} if (dropped := dataset.plan.n_cells - dataset.n_cells) else {}),
    }


def _mappable(table: pa.Table) -> bytes:
    """Encode without compression, so that readers map it: of 200 million cells it has 15 million rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data
