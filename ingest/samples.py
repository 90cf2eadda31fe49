"""Samples: the datasets of a Census and the files, under names that are unique in the whole dataset. Pure."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from ingest.genes import Genes
    from ingest.opened import OpenPlan
    from ingest.survey.model import SourceSurvey

__all__ = ["SampleCounts", "presence_npz"]

_HELD = 16
"""Counts of batches that are kept apart before they are summed."""


class SampleCounts:
    """Counts the cells and tissues of every sample while the cells go by."""

    def __init__(self, opened: OpenPlan) -> None:
        self._opened = opened
        self._is_soma = np.array([survey.layout == "soma" for survey in opened.surveys], bool)
        self._dataset_ids = self._tissues = pa.array([], pa.string())
        self._counted: list[pa.StructArray] = []
        """Codes of (source, dataset of a Census, tissue) as one number, and its cells."""

    def add(self, table: pa.Table, codes: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        """Take the next cells: their rows of the plan's index and which source each is of, int32 ``(n,)``."""
        self._dataset_ids, dataset_codes = _texts(table, "dataset_id")
        self._tissues, tissue_codes = _texts(table, "tissue")
        # A file may have these columns too, left over from the Census it was cut from.
        dataset_codes = np.where(self._is_soma[codes], dataset_codes, -1)
        keys = codes * np.int64(len(self._dataset_ids) + 1) + dataset_codes + 1
        self._counted.append(pc.value_counts(pa.array(keys * (len(self._tissues) + 1) + tissue_codes + 1)))
        if len(self._counted) >= _HELD:
            self._counted = [_summed(self._counted)]

    def _cells(self) -> Iterator[tuple[int, str | None, str | None, int]]:
        """Yield source, dataset, tissue and how many cells have these; None where the index does not say."""
        if not self._counted:
            return
        dataset_ids, tissues = ([None, *texts.to_pylist()] for texts in (self._dataset_ids, self._tissues))
        counted = _summed(self._counted)
        for key, count in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True):
            rest, tissue = divmod(key, len(tissues))
            source, dataset = divmod(rest, len(dataset_ids))
            yield source, dataset_ids[dataset], tissues[tissue], count

    def experiments(self) -> dict[str, dict[str, Any]]:
        """Return one entry a dataset of a Census, or a file: its cells here, and what its source says of it."""
        opened = self._opened
        known = {
            _sample(opened, number, name): facts
            for number, survey in enumerate(opened.surveys)
            for name, facts in survey.datasets.items()
        }
        organisms = dict(zip(opened.labels, (survey.source.organism for survey in opened.surveys), strict=True))
        cells: Counter[str] = Counter()
        tissues: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for source, dataset, tissue, count in self._cells():
            name = opened.labels[source] if dataset is None else dataset
            cells[name] += count
            if tissue is not None:
                tissues[name][tissue] += count
        entries: dict[str, dict[str, Any]] = {}
        for name, count in sorted(cells.items()):
            facts: Mapping[str, str] = known.get(name, {})
            entries[name] = {"accession": name, "n_cells": count, "tissue": _joined(tissues.get(name)), **facts}
            entries[name].setdefault("organism", organisms.get(name) or None)
        return entries


def _summed(counted: Sequence[pa.StructArray]) -> pa.StructArray:
    """Return one count a value."""
    parts = pa.concat_arrays(counted)
    table = pa.table({"value": parts.field(0), "count": parts.field(1)}).group_by("value").aggregate([("count", "sum")])
    columns = [table[name].combine_chunks() for name in ("value", "count_sum")]
    return pa.StructArray.from_arrays(columns, ["values", "counts"])


def _texts(table: pa.Table, name: str) -> tuple[pa.Array, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the texts of a column and a code for every row, -1 for none; no texts where it has none."""
    if name not in table.column_names or not pa.types.is_dictionary(table[name].type):
        return pa.array([], pa.string()), np.full(len(table), -1, np.int64)
    column = table[name].combine_chunks()
    return column.dictionary, pc.fill_null(column.indices, -1).to_numpy().astype(np.int64)


def _joined(tissues: Counter[str] | None) -> str | None:
    """Return the tissues of a sample, most frequent first, joined by ``; ``."""
    if tissues is None:
        return None
    return "; ".join(name for name, _ in sorted(tissues.items(), key=lambda item: (-item[1], item[0])))


def _sample(opened: OpenPlan, number: int, name: str) -> str:
    """Return what source `number` calls `name` as the dataset calls it: file names repeat, labels do not."""
    return name if opened.surveys[number].layout == "soma" else opened.labels[number]


def presence_npz(opened: OpenPlan, experiments: Container[str]) -> bytes:
    """Return an npz of ``presence`` bool (n_datasets, n_genes), ``datasets`` and ``genes``: measured there at all."""
    rows: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for number, survey in enumerate(opened.surveys):
        # An index without dataset_id does not say which datasets of a Census its cells come from: all, then.
        wanted = [name for name in survey.presence if _sample(opened, number, name) in experiments]
        for name in wanted or (survey.presence if survey.layout == "soma" else ()):
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
