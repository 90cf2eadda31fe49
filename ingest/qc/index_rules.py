"""Rules that an index alone can answer: its cells go while the dataset is planned, and are never fetched.

Annotations always can. Bounds on genes and counts can where the index states both for every cell, as that of a Census
does (``nnz``, ``raw_sum``), and all genes of the sources are kept: what the index says is then what X holds, and every
cell that is fetched is compared with it. With median absolute deviations they wait, whose medians are over all cells.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import EmptySelectionError
from ingest.qc.annotations import resolve_annotations
from ingest.qc.judge import breaks_bound, drops_of
from ingest.qc.parameters import QcRules
from ingest.qc.table import flag_of
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ingest.index_file import IndexFile
    from ingest.qc.annotations import Annotation
    from ingest.qc.judge import Drops
    from ingest.vocabulary import GeneRule

__all__ = ["Filtered", "filter_index", "split_rules", "states_totals"]

Array = np.ndarray[Any, Any]

_TOTALS = {"min_genes": "nnz", "max_genes": "nnz", "min_counts": "raw_sum", "max_counts": "raw_sum"}
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class Filtered:
    """An index without the cells that rules drop."""

    n_cells: int
    """Before."""
    n_kept: int
    drops: Mapping[str, Drops]
    annotations: tuple[Annotation, ...]


def states_totals(file: IndexFile, genes: GeneRule, default_source: Source | None) -> bool:
    """Say whether an index can answer for genes and counts of its cells: see the module."""
    if genes.wanted is not None or genes.max_genes is not None or genes.align != "union":
        return False
    kinds = [file.schema.field(name).type for name in ("nnz", "raw_sum") if name in file.schema.names]
    if len(kinds) < 2 or not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return False
    return all(_states_totals(batch, default_source) for batch in file.batches())


def _states_totals(batch: pa.RecordBatch, default_source: Source | None) -> bool:
    if "source" in batch.schema.names:
        texts = pc.unique(batch.column("source")).to_pylist()
        soma = all(text is not None and Source.parse(str(text)).kind != "h5ad" for text in texts)
    else:
        soma = default_source is not None
    return soma and all(bool(np.all(_numbers(batch.column(name)) >= 0)) for name in ("nnz", "raw_sum"))


def _numbers(column: pa.Array) -> Array:
    """Return numbers, NaN for what is missing."""
    values: Array = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def split_rules(rules: QcRules, *, totals: bool) -> tuple[QcRules, QcRules]:
    """Return the rules that an index answers, and those that want the counts.

    Parameters
    ----------
    totals
        Whether it answers for genes and counts of cells, `states_totals`.
    """
    none = QcRules()
    annotated = ("subset_to_control_cells", "control_column", "control_values", "leave_out_column")
    names = (*annotated, *_TOTALS) if totals and not rules.most_mads else annotated
    now = replace(none, **{name: getattr(rules, name) for name in names})
    return now, replace(rules, **{name: getattr(none, name) for name in names})


def filter_index(file: IndexFile, rules: QcRules, path: Path) -> Filtered:
    """Write the rows of an index that `rules` leave to a new file, texts plain.

    Parameters
    ----------
    rules
        Those that an index answers, `split_rules`.

    Raises
    ------
    EmptySelectionError
        No row is left.
    ConfigError
        As `ingest.qc.annotations.resolve_annotations`, or a damaged index.
    """

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return (batch.select(columns) for batch in file.batches())

    annotations = resolve_annotations(rules, file.schema, batches, str(file.path))
    schema = pa.schema([(field.name, _plain(field.type)) for field in file.schema])
    flagged: Counter[int] = Counter()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=_LZ4) as writer:
        for batch in file.batches():
            flags = _flags(batch, rules, annotations)
            values, counts = np.unique(flags, return_counts=True)
            flagged.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            kept = batch.filter(pa.array(flags == 0))
            # Dictionaries of batches may differ, and a file may not replace one: texts are written as they are.
            columns = [column.cast(field.type) for column, field in zip(kept.columns, schema, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    found = Filtered(flagged.total(), flagged[0], drops_of(flagged), annotations)
    if not found.n_kept:
        said = ", ".join(f"{rule} {drops.breaking:,}" for rule, drops in found.drops.items())
        raise EmptySelectionError(
            f"{file.path}: the quality rules drop all of its {found.n_cells:,} cells ({said})",
            hint="`index show` says what its columns hold",
        )
    return found


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _flags(batch: pa.RecordBatch, rules: QcRules, annotations: Sequence[Annotation]) -> Array:
    flags = np.zeros(len(batch), np.uint32)
    for annotation in annotations:
        flags[annotation.dropped(batch.column(annotation.column))] |= flag_of(annotation.rule)
    for rule, column in _TOTALS.items():
        if (bound := getattr(rules, rule)) is not None:
            flags[breaks_bound(rule, bound, _numbers(batch.column(column)))] |= flag_of(rule)
    return flags
