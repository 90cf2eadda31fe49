"""From a dataset to its highly variable genes: which passes a flavour takes, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ingest.chunk_check import check_index
from ingest.errors import ConfigError, EmptySelectionError, IncompleteError
from ingest.finish import read_chunks
from ingest.folding import fold_chunks
from ingest.hvg.batches import ALL, count_batches
from ingest.hvg.flavours import by_dispersion, by_normalised_dispersion
from ingest.hvg.folds import CellTotals, ClippedSums, CountSums, NormalisedSums, median_total
from ingest.hvg.kernels import WORDS
from ingest.hvg.seurat_v3 import by_standardised_variance, fit_trend, require_loess, standardised_variance
from ingest.layout import SUCCESS_KEY
from ingest.store.base import exists
from ingest.summaries import dataset_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ingest.folding import ChunkFold, FoldObserver
    from ingest.hvg.choice import Choice
    from ingest.hvg.parameters import HvgParameters
    from ingest.hvg.sums import BatchSums, Moments
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.running import OpenPool
    from ingest.settings import WorkSettings

__all__ = ["Found", "HvgData", "Passes", "Request", "check_request", "find_hvgs", "read_data", "refuse_normalized"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True, eq=False)
class HvgData:
    """The chunks that the genes are chosen from."""

    opened: OpenPlan
    chunks: Sequence[ChunkReceipt]
    complete: bool

    @property
    def n_cells(self) -> int:
        """Cells of the chunks."""
        return sum(chunk.n_cells for chunk in self.chunks)

    def document(self) -> dict[str, Any]:
        """Return what hvg_info.json says of them."""
        return {
            "digest": dataset_digest(self.chunks),
            "complete": self.complete,
            "n_cells": self.n_cells,
            "n_chunks": len(self.chunks),
            "n_genes": len(self.opened.genes),
        }


def read_data(opened: OpenPlan, *, allow_incomplete: bool = False) -> HvgData:
    """Read what receipts say of the chunks.

    Raises
    ------
    IncompleteError
        Not all chunks are there, or the dataset is not finished.
    CorruptError
        A receipt is damaged.
    """
    chunks, _ = read_chunks(opened)
    url, n_chunks = opened.store.url, opened.plan.n_chunks
    complete = len(chunks) == n_chunks and exists(opened.store, SUCCESS_KEY)
    if not complete and not allow_incomplete:
        raise IncompleteError(
            f"{url} is not complete: {len(chunks):,} of {n_chunks:,} chunks are there",
            hint=f"`python -m ingest run {url}` goes on; --allow-incomplete takes what there is",
        )
    if not chunks:
        raise EmptySelectionError(f"{url} has no chunk yet")
    return HvgData(opened, chunks, complete)


def refuse_normalized(data: HvgData, command: str) -> None:
    """Refuse a dataset of normalised values.

    Raises
    ------
    ConfigError
        Kind ``normalized``.
    """
    if data.opened.plan.identity.normalize is not None:
        raise ConfigError(
            f"{data.opened.store.url} holds normalised values; {command} works on counts",
            kind="normalized",
            hint="ingest the same cells without --normalize, and take what is found there",
        )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The genes chosen, and what they were chosen by."""

    choice: Choice
    moments: Moments
    """Of all cells together: of counts, or of the flavour's normalised values."""
    target_sum: float | None
    """What totals became, where values were normalised."""
    batches: Mapping[str, int] | None
    """Batch -> cells, with a batch key."""


class Passes(Protocol):
    """Shows each pass over the chunks: called before it, with its name, for what takes its progress."""

    def __call__(self, word: str, /) -> FoldObserver:
        """Begin the display of one pass."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is to be found in what, known to be possible as far as that can be said without reading a chunk."""

    data: HvgData
    parameters: HvgParameters
    batches: Mapping[str, int]
    """Batch -> cells; one batch of all cells without a batch key."""

    @property
    def n_passes(self) -> int:
        """How often the chunks are read."""
        median = self.parameters.normalised and self.parameters.target_sum is None
        return 2 if median or self.parameters.flavour == "seurat_v3" else 1

    @property
    def state_bytes(self) -> int:
        """Size of the sums of all batches."""
        return len(self.batches) * len(self.data.opened.genes) * WORDS * 8


def check_request(data: HvgData, parameters: HvgParameters, *, memory_bytes: int) -> Request:
    """Find the batches and refuse what cannot be done, before workers are started.

    Raises
    ------
    ConfigError
        The dataset holds normalised values (kind ``normalized``), no such batch column (kind ``unknown-column``), cells
        without a value in it (``bad-batch-key``), more batches
        than sums fit into `memory_bytes` (``memory``), scikit-misc missing (``missing-package``).
    EmptySelectionError
        Fewer than two cells.
    CorruptError
        The plan's index, which names the batches, is damaged.
    """
    refuse_normalized(data, "hvg")
    if parameters.flavour == "seurat_v3":
        require_loess()
    if data.n_cells < 2:
        raise EmptySelectionError("one cell has no variable genes")
    key = parameters.batch_key
    if key is not None:
        check_index(data.opened)  # batches are read from it, by ranges
    batches = {ALL: data.n_cells} if key is None else count_batches(data.opened, key, data.chunks)
    request = Request(data, parameters, batches)
    if len(batches) > 1 and request.state_bytes > memory_bytes:
        raise ConfigError(
            f"--batch-key {key} has {len(batches):,} values: sums for each gene in each take "
            f"{request.state_bytes / 1e9:.1f} GB, --memory allows {memory_bytes / 1e9:.1f}",
            kind="memory",
            hint="take a column with fewer values, or give more --memory",
        )
    return request


def find_hvgs(
    request: Request,
    settings: WorkSettings,
    open_pool: OpenPool,
    passes: Passes,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Found:
    """Choose the genes: every chunk is read once a pass, on the pool's workers.

    The result is the same to the last bit whatever the pool, the number of workers and who of them died.

    Raises
    ------
    ConfigError
        seurat_v3 finds no trend in a batch (kind ``no-trend``).
    SourceError
        seurat_v3 on fractional values (kind ``fractional``).
    IngestError
        As `ingest.folding.fold_chunks`.
    """
    return _Finder(request, settings, open_pool, passes, stop_requested).find()


class _Finder:
    def __init__(
        self,
        request: Request,
        settings: WorkSettings,
        open_pool: OpenPool,
        passes: Passes,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._request, self._data, self._parameters = request, request.data, request.parameters
        self._settings, self._open_pool = settings, open_pool
        self._passes, self._stop_requested = passes, stop_requested
        self._fractions = self._data.opened.plan.identity.allow_noninteger

    def find(self) -> Found:
        target = self._target() if self._parameters.normalised else None
        sums = self._sums(target)
        choice = self._seurat_v3(sums) if self._parameters.flavour == "seurat_v3" else self._choose(sums)
        batches = None if self._parameters.batch_key is None else self._request.batches
        return Found(choice, sums.total_moments(), target, batches)

    def _fold(self, word: str, fold: ChunkFold[S], state_bytes: int) -> S:
        return fold_chunks(
            self._data.opened,
            fold,
            self._data.chunks,
            self._settings,
            self._open_pool,
            self._passes(word),
            state_bytes=state_bytes,
            stop_requested=self._stop_requested,
        )

    def _target(self) -> float:
        if self._parameters.target_sum is not None:
            return self._parameters.target_sum
        median = median_total(self._fold("Totals", CellTotals(self._fractions), 0))
        if median is None:
            raise EmptySelectionError("no cell has any count")
        return median

    def _sums(self, target: float | None) -> BatchSums:
        key = self._parameters.batch_key
        if target is not None:
            logarithm = self._parameters.flavour == "cell_ranger"
            return self._fold(
                "Genes", NormalisedSums(target, logarithm, key, self._fractions), self._request.state_bytes
            )
        # The trend of seurat_v3 is one of counts: fractions are refused where they are met.
        takes_fractions = self._fractions and self._parameters.flavour == "dispersion"
        bound = max(chunk.maximum for chunk in self._data.chunks) if takes_fractions else None
        return self._fold("Genes", CountSums(key, bound), self._request.state_bytes)

    def _choose(self, sums: BatchSums) -> Choice:
        parameters, genes = self._parameters, self._data.opened.genes
        moments = [sums.moments(label) for label in self._request.batches]
        if parameters.flavour == "dispersion":
            return by_dispersion(moments, n_hvgs=parameters.n_hvgs, min_cells_pct=parameters.min_cells_pct or 0.0)
        return by_normalised_dispersion(moments, n_hvgs=parameters.n_hvgs, flavour=parameters.flavour, genes=genes.ids)

    def _seurat_v3(self, sums: BatchSums) -> Choice:
        key, labels = self._parameters.batch_key, tuple(self._request.batches)
        moments = [sums.moments(label) for label in labels]
        trends = [
            fit_trend(one, where="the cells" if key is None else f"{key} {label!r}")
            for label, one in zip(labels, moments, strict=True)
        ]
        limits = np.array([trend.limit for trend in trends])
        clipped = self._fold("Clipped", ClippedSums(labels, limits, key), self._request.state_bytes)
        scores = [
            standardised_variance(one, trend, clipped.limbs[at])
            for at, (one, trend) in enumerate(zip(moments, trends, strict=True))
        ]
        return by_standardised_variance(scores, n_hvgs=self._parameters.n_hvgs)
