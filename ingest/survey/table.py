"""Surveys as one feather table: vocabularies that sources share are stored once."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import CorruptError
from ingest.genes import Genes
from ingest.record_fields import check_fields, is_text, keyed, maybe
from ingest.source import Source
from ingest.survey.model import Fault, SourceSurvey
from ingest.unpacked import UnpackLimit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["surveys_from_bytes", "surveys_to_bytes"]

_PLAIN = ("n_obs", "layout", "matrix", "dtype", "nnz", "band_rows", "stored_bytes", "names_unique", "integer")

_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("n_obs", pa.int64()),
        ("layout", pa.string()),
        ("matrix", pa.string()),
        ("dtype", pa.string()),
        ("nnz", pa.int64()),
        ("band_rows", pa.int64()),
        ("stored_bytes", pa.int64()),
        ("names_unique", pa.bool_()),
        ("integer", pa.bool_()),
        ("vocabulary", pa.int32()),  # row of this table that holds the gene columns
        ("gene_ids", pa.list_(pa.string())),
        ("gene_names", pa.list_(pa.string())),
        ("gene_lengths", pa.list_(pa.int64())),
        ("presence_ids", pa.list_(pa.string())),
        ("presence_bits", pa.large_binary()),  # np.packbits of bool (n_datasets, n_vars), row by row
        ("datasets", pa.string()),  # JSON
        ("fault", pa.string()),  # JSON, null where there is none
    ]
)

_MAY_LACK = frozenset({"fault"})
"""In plans of earlier builds."""
_MAY_BE_NULL = frozenset({"gene_ids", "gene_names", "gene_lengths", "fault"})
"""Of a vocabulary that stands elsewhere; where nothing is wrong. In no list is anything null."""


def surveys_to_bytes(surveys: Sequence[SourceSurvey]) -> bytes:
    """Encode surveys, in order; equal surveys give equal bytes."""
    first_with: dict[str, int] = {}
    rows = []
    for number, survey in enumerate(surveys):
        holder = first_with.setdefault(_vocabulary_identity(survey.genes), number)
        rows.append(_row(survey, holder, with_genes=holder == number))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, _SCHEMA, options=options) as writer:
        writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _vocabulary_identity(genes: Genes) -> str:
    return f"{genes.digest}:{hash((genes.names, genes.lengths))}"


def _row(survey: SourceSurvey, holder: int, *, with_genes: bool) -> dict[str, Any]:
    present = sorted(survey.presence)
    matrix = np.array([survey.presence[name] for name in present], bool).reshape(len(present), len(survey.genes))
    return {
        "source": str(survey.source),
        **{name: getattr(survey, name) for name in _PLAIN},
        "vocabulary": holder,
        "gene_ids": list(survey.genes.ids) if with_genes else None,
        "gene_names": list(survey.genes.names) if with_genes else None,
        "gene_lengths": list(survey.genes.lengths) if with_genes else None,
        "presence_ids": present,
        "presence_bits": np.packbits(matrix, axis=1).tobytes(),
        "fault": None if survey.fault is None else json.dumps(asdict(survey.fault), sort_keys=True),
        "datasets": json.dumps({name: dict(survey.datasets[name]) for name in sorted(survey.datasets)}, sort_keys=True),
    }


def surveys_from_bytes(data: bytes, *, key: str) -> tuple[SourceSurvey, ...]:
    """Decode surveys.

    Raises
    ------
    CorruptError
        The bytes are no survey table.
    """
    try:
        UnpackLimit(memoryview(data)).check_whole()
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        table.validate(full=True)
        _check_columns(table)
        rows = table.to_pylist()
        genes: dict[int, Genes] = {}
        for number, row in enumerate(rows):
            if row["vocabulary"] == number:
                genes[number] = Genes(tuple(row["gene_ids"]), tuple(row["gene_names"]), tuple(row["gene_lengths"]))
        shared: dict[bytes, np.ndarray[Any, np.dtype[np.bool_]]] = {}
        return tuple(_survey(row, genes[row["vocabulary"]], shared) for row in rows)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise CorruptError(f"{key} is no survey ({error})", key=key) from error


def _check_columns(table: pa.Table) -> None:
    for field in _SCHEMA:
        if field.name not in table.schema.names and field.name in _MAY_LACK:
            continue
        column = table[field.name]  # raises where it is not there, or twice
        if column.type != field.type:
            raise ValueError(f"{field.name} is {column.type}")
        n_null = 0 if field.name in _MAY_BE_NULL else column.null_count
        if n_null or (pa.types.is_list(column.type) and pc.list_flatten(column).null_count):
            raise ValueError(f"{field.name} is null somewhere")


def _datasets(text: str) -> dict[str, dict[str, str]]:
    found = json.loads(text)
    check_fields({"datasets": found}, {"datasets": keyed(keyed(is_text))})
    return dict(found)


def _fault(text: str) -> Fault:
    found = json.loads(text)
    check_fields(found, {"kind": is_text, "message": is_text, "hint": maybe(is_text)})
    return Fault(**found)


def _survey(
    row: dict[str, Any], genes: Genes, shared: dict[bytes, np.ndarray[Any, np.dtype[np.bool_]]]
) -> SourceSurvey:
    ids = row["presence_ids"]
    packed = np.frombuffer(row["presence_bits"], np.uint8).reshape(len(ids), -1) if ids else np.empty((0, 0), np.uint8)
    # Thousands of files with one vocabulary have one and the same row.
    for line in packed:
        key = len(genes).to_bytes(8, "little") + line.tobytes()
        if key not in shared:
            shared[key] = np.unpackbits(line, count=len(genes)).astype(bool)
    presence = {name: shared[len(genes).to_bytes(8, "little") + packed[at].tobytes()] for at, name in enumerate(ids)}
    fault = row.get("fault")  # not there in plans of older versions
    return SourceSurvey(
        source=Source.parse(row["source"]),
        genes=genes,
        presence=presence,
        datasets=_datasets(row["datasets"]),
        fault=None if fault is None else _fault(fault),
        **{name: row[name] for name in _PLAIN},
    )
