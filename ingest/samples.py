"""Samples: datasets of a Census, experiments, files, under names that are unique in the whole dataset. Pure."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.genes import Genes
    from ingest.opened import OpenPlan
    from ingest.survey.model import SourceSurvey

__all__ = ["SampleCounts", "presence_npz"]

_NAMING = {"dataset_id": True, "SRX_accession": False}
"""Columns that name a sample -> whether they do so for the cells of a Census; else for those of files."""
_COLUMNS = (*_NAMING, "tissue", "organism")

_HELD = 16
"""Counts of batches that are kept apart before they are summed."""


class SampleCounts:
    """Counts the cells, tissues and organisms of every sample while the cells go by.

    A sample is a dataset of a Census, the ``SRX_accession`` that the index gives a file's cells, or else the file.
    """

    def __init__(self, opened: OpenPlan) -> None:
        self._opened = opened
        self._is_soma = np.array([survey.layout == "soma" for survey in opened.surveys], bool)
        self._texts = dict.fromkeys(_COLUMNS, pa.array([], pa.string()))
        self._counted: list[pa.StructArray] = []
        """Codes of (source, and what the `_COLUMNS` say) as one number, and its cells."""

    def add(self, table: pa.Table, codes: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        """Take the next cells: their rows of the plan's index and which source each is of, int32 ``(n,)``."""
        keys = codes.astype(np.int64)
        for name in _COLUMNS:
            self._texts[name], of_cells = _texts(table, name)
            if name in _NAMING:
                # A file may have dataset_id too, left over from the Census it was cut from.
                of_cells = np.where(self._is_soma[codes] == _NAMING[name], of_cells, -1)
            keys = keys * (len(self._texts[name]) + 1) + of_cells + 1
        self._counted.append(pc.value_counts(pa.array(keys)))
        if len(self._counted) >= _HELD:
            self._counted = [_summed(self._counted)]

    def _cells(self) -> Iterator[tuple[int, dict[str, str | None], int]]:
        """Yield source, what the `_COLUMNS` say, None where they do not, and how many cells have these."""
        if not self._counted:
            return
        known = {name: [None, *texts.to_pylist()] for name, texts in reversed(self._texts.items())}
        counted = _summed(self._counted)
        for key, count in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True):
            said, rest = {}, key
            for name, texts in known.items():
                rest, code = divmod(rest, len(texts))
                said[name] = texts[code]
            yield rest, said, count

    def experiments(self) -> dict[str, dict[str, Any]]:
        """Return one entry a sample: its cells here, and what index and source say of it."""
        opened = self._opened
        known = {
            _sample(opened, number, name): facts
            for number, survey in enumerate(opened.surveys)
            for name, facts in survey.datasets.items()
        }
        found: defaultdict[str, _Counted] = defaultdict(_Counted)
        for source, said, count in self._cells():
            named = found[said["dataset_id"] or said["SRX_accession"] or opened.labels[source]]
            named.n_cells += count
            named.sources.add(source)
            for name, counter in named.texts.items():
                if text := said[name]:
                    counter[text] += count
        return {name: self._entry(name, counted, known) for name, counted in sorted(found.items())}

    def _entry(self, name: str, counted: _Counted, known: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        numbers = sorted(counted.sources)
        labels = [self._opened.labels[number] for number in numbers]
        facts = dict(known.get(name) or known.get(labels[0], {}))
        organism = _joined(counted.texts["organism"]) or facts.pop("organism", None)
        organism = organism or self._opened.surveys[numbers[0]].source.organism
        of_files = not self._is_soma[numbers].any() and labels != [name]
        return {
            "accession": name,
            "n_cells": counted.n_cells,
            "tissue": _joined(counted.texts["tissue"]),
            **facts,
            "organism": _species(organism) if organism else None,
            **({"files": labels} if of_files else {}),
        }


class _Counted:
    """What has been counted of one sample."""

    def __init__(self) -> None:
        self.n_cells = 0
        self.sources: set[int] = set()
        self.texts: dict[str, Counter[str]] = {"tissue": Counter(), "organism": Counter()}


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


def _joined(texts: Counter[str]) -> str | None:
    """Return the tissues of a sample, most frequent first, joined by ``; ``."""
    return "; ".join(name for name, _ in sorted(texts.items(), key=lambda item: (-item[1], item[0]))) or None


def _species(organism: str) -> str:
    """Return ``Homo sapiens`` for what a Census calls ``homo_sapiens``, anything else as it is."""
    words = organism.split("_")
    plain = len(words) > 1 and all(word.isalpha() and word.islower() for word in words)
    return " ".join(words).capitalize() if plain else organism


def _sample(opened: OpenPlan, number: int, name: str) -> str:
    """Return what source `number` calls `name` as the dataset calls it: file names repeat, labels do not."""
    return name if opened.surveys[number].layout == "soma" else opened.labels[number]


def presence_npz(opened: OpenPlan, experiments: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return an npz of ``presence`` bool (n_datasets, n_genes), ``datasets`` and ``genes``: measured there at all.

    A row is a sample as `SampleCounts.experiments` names it; it was measured where one of its files did.
    """
    rows: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for number, survey in enumerate(opened.surveys):
        # An index without dataset_id does not say which datasets of a Census its cells come from: all, then.
        wanted = [name for name in survey.presence if _sample(opened, number, name) in experiments]
        of_file = [sample for sample, entry in experiments.items() if opened.labels[number] in entry.get("files", ())]
        for name in wanted or (survey.presence if survey.layout == "soma" or of_file else ()):
            row = _onto(survey, name, opened.genes)
            mine = [_sample(opened, number, name)] if wanted or not of_file else []
            for sample in dict.fromkeys([*mine, *of_file]):
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
