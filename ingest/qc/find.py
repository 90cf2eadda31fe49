"""From a dataset and rules to what stays of it: which passes that takes, and what comes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.chunk_check import check_index
from ingest.errors import ConfigError
from ingest.folding import fold_chunks
from ingest.hvg.batches import ALL
from ingest.hvg.find import refuse_normalized
from ingest.hvg.kernels import WORDS
from ingest.hvg.sums import BatchSums, whole_sums
from ingest.plan_rows import plan_batches
from ingest.qc.annotations import Annotation, resolve_annotations
from ingest.qc.folds import KEPT, CellsAndGenes, KeptGenes, QcSums
from ingest.qc.judge import Deviation, Drops, count_drops, flag_annotated, flag_by_metrics
from ingest.qc.table import CELL, CellTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ingest.genes import Genes
    from ingest.hvg.find import HvgData, Passes
    from ingest.hvg.sums import Moments
    from ingest.qc.parameters import QcRules
    from ingest.running import OpenPool
    from ingest.settings import WorkSettings

__all__ = ["GeneMetrics", "QcFound", "QcRequest", "check_request", "find_qc", "held_batches", "mito_columns"]

Array = np.ndarray[Any, Any]

_PREFIXES = ("MT-", "mt-")
_UNIT_CELLS = 1 << 19
"""What a unit brings home at most, but for its last chunk."""


def mito_columns(genes: Genes, named: Sequence[str] | None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which genes are mitochondrial, bool ``(n_genes,)``.

    Parameters
    ----------
    named
        Their ids or symbols; None: those whose symbol begins with ``MT-`` (human) or ``mt-`` (mouse).

    Raises
    ------
    ConfigError
        None of `named` is a gene of the dataset (kind ``no-mito-genes``).
    """
    if named is None:
        return np.array([name.startswith(_PREFIXES) for name in genes.names], bool)
    wanted = set(named)
    found = np.array(
        [pair[0] in wanted or pair[1] in wanted for pair in zip(genes.ids, genes.names, strict=True)], bool
    )
    if not found.any():
        raise ConfigError(
            f"mito_genes: none of the {len(wanted):,} is a gene of the dataset, {named[0]!r} the first",
            kind="no-mito-genes",
            hint=f"ids look like {genes.ids[0]}, symbols like {genes.names[0]}",
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class QcRequest:
    """What is to be judged by what, known to be possible as far as that can be said without reading a chunk."""

    data: HvgData
    rules: QcRules
    mito: np.ndarray[Any, np.dtype[np.bool_]]
    annotations: tuple[Annotation, ...]

    @property
    def state_bytes(self) -> int:
        """Size of what one unit brings home."""
        cells = min(self.data.n_cells, _UNIT_CELLS + max(chunk.n_cells for chunk in self.data.chunks))
        return len(self.data.opened.genes) * WORDS * 8 + cells * CELL.itemsize


def check_request(data: HvgData, rules: QcRules) -> QcRequest:
    """Find genes and columns that the rules name, and refuse what cannot be done, before workers are started.

    Raises
    ------
    ConfigError
        The dataset holds normalised values (kind ``normalized``), no mitochondrial gene is known where a rule is about
        them (``no-mito-genes``), or as `ingest.qc.annotations.resolve_annotations`.
    CorruptError
        The plan's index is damaged.
    """
    refuse_normalized(data, "qc")
    opened = data.opened
    mito = mito_columns(opened.genes, rules.mito_genes)
    if rules.needs_mito and not mito.any():
        raise ConfigError(
            "no gene of the dataset has a symbol that begins with MT- or mt-",
            kind="no-mito-genes",
            hint="name the mitochondrial genes with mito_genes (ids or symbols), or leave their rule out",
        )
    check_index(opened)  # read by ranges, and the second run's index is made of it
    schema = opened.index.rows(0, 1).schema

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return opened.index.batches(opened.plan.n_cells, columns)

    annotations = resolve_annotations(rules, schema, batches, "this dataset")
    return QcRequest(data, rules, mito, annotations)


@dataclass(frozen=True, slots=True, eq=False)
class GeneMetrics:
    """Every gene over all cells, and over those that stay; arrays are ``(n_genes,)``."""

    moments: Moments
    """Over all cells."""
    totals: list[int] | list[float]
    """Sum of counts over all cells, exact where counts are whole."""
    n_cells_kept: np.ndarray[Any, np.dtype[np.int64]] | None
    """Cells that stay in which the gene is seen; None where nobody asked."""
    kept: np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class QcFound:
    """What the rules come to."""

    table: CellTable
    n_kept: int
    drops: Mapping[str, Drops]
    deviations: Mapping[str, Deviation]
    genes: GeneMetrics
    n_listed: int
    """Of the names in a list of cells to leave out, those that are a cell's."""


def find_qc(
    request: QcRequest,
    scratch: Path,
    settings: WorkSettings,
    open_pool: OpenPool,
    passes: Passes,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
) -> QcFound:
    """Measure all cells and genes and apply the rules: chunks are read once, twice where cells and genes both go.

    Parameters
    ----------
    scratch
        Folder for the metrics of cells, 24 bytes each.

    Raises
    ------
    ConfigError
        No name of the list to leave out is a cell's (kind ``unknown-cells``).
    IngestError
        As `ingest.folding.fold_chunks`.
    """
    data, rules = request.data, request.rules
    fractions = data.opened.plan.identity.allow_noninteger
    bound = max(chunk.maximum for chunk in data.chunks) if fractions else None

    def fold(word: str, what: Any, state: Any = None) -> Any:
        return fold_chunks(
            data.opened,
            what,
            data.chunks,
            settings,
            open_pool,
            passes(word),
            state=state,
            state_bytes=request.state_bytes,
            stop_requested=stop_requested,
        )

    table = CellTable(scratch / "cells.bin", data.chunks)
    listed = pa.array(rules.leave_out, pa.string()) if rules.leave_out else None
    first = CellsAndGenes(request.mito, bound, listed)
    sums: QcSums = fold("Cells", first, QcSums(first.begin(data.opened).genes, table=table))
    n_listed = _refuse_strangers(table, rules)
    if request.annotations:
        columns = [annotation.column for annotation in request.annotations]
        held = (piece.to_batches()[0] for piece in held_batches(data, columns) if len(piece))
        flag_annotated(table, request.annotations, held)
    deviations = flag_by_metrics(table, rules)
    n_kept, drops = table.n_kept, count_drops(table)
    kept_sums = sums.genes
    if rules.filters_genes and n_kept < len(table):
        kept_sums = fold("Genes", KeptGenes(table.kept_bits(), table.firsts, bound))
    genes = _gene_metrics(sums.genes, kept_sums, rules, n_kept)
    return QcFound(table, n_kept, drops, deviations, genes, n_listed)


def _refuse_strangers(table: CellTable, rules: QcRules) -> int:
    """Return how many listed names are cells'; a list of which none is was made for something else."""
    found = sum(int(np.count_nonzero(piece["flags"])) for piece in table.pieces())
    if rules.leave_out and not found:
        raise ConfigError(
            f"leave_out: none of the {len(rules.leave_out):,} names is a cell's, {rules.leave_out[0]!r} the first",
            kind="unknown-cells",
            hint="cells are named as in obs_names of the chunks: <file>:<barcode>, or the joinid of a Census",
        )
    return found


def _gene_metrics(sums: BatchSums, kept_sums: BatchSums, rules: QcRules, n_kept: int) -> GeneMetrics:
    limbs = sums.limbs[0] if sums.labels else np.zeros((sums.n_genes, WORDS), np.uint64)
    whole, _ = whole_sums(limbs)
    totals = whole if not sums.shift else [math.ldexp(total, -sums.shift) for total in whole]
    counted = kept_sums.limbs[kept_sums.labels.index(KEPT if KEPT in kept_sums.labels else ALL), :, 0].astype(np.int64)
    moments = sums.total_moments()
    if not rules.filters_genes:
        return GeneMetrics(moments, totals, None, np.ones(len(counted), bool))
    least = (rules.min_cells_pct or 0.0) / 100 * n_kept if rules.min_cells is None else rules.min_cells
    return GeneMetrics(moments, totals, counted, counted >= least)


def held_batches(data: HvgData, columns: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Yield the plan's rows of the cells that the chunks hold, in order.

    Parameters
    ----------
    columns
        Decode these beside the coordinates; none stands for all.
    """
    opened, chunks = data.opened, {chunk.chunk: chunk for chunk in data.chunks}
    whole = len(chunks) == opened.plan.n_chunks and not any(chunk.dropped for chunk in data.chunks)
    size = opened.plan.identity.cells_per_chunk
    for batch in plan_batches(opened, ("source", "soma_joinid", "row", *columns) if columns else ()):
        if whole:
            yield batch.table
            continue
        numbers = np.arange(batch.first, batch.first + len(batch.table)) // size
        held = np.isin(numbers, list(chunks))
        for number in np.unique(numbers[held]).tolist():
            if chunks[number].dropped:
                sources = [source for source, _ in chunks[number].sources]
                held &= (numbers != number) | np.isin(batch.codes, sources)
        yield batch.table.filter(pa.array(held))
