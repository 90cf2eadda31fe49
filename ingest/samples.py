"""Samples: the datasets of a Census and the files, under names that are unique in the whole dataset. Pure."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ingest.genes import Genes
    from ingest.opened import OpenPlan
    from ingest.survey.model import SourceSurvey

__all__ = ["experiments_of", "presence_npz"]


def experiments_of(opened: OpenPlan, table: pa.Table) -> dict[str, dict[str, Any]]:
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
    texts = source.dictionary.to_pylist()
    labels = pa.array([label_of.get(text, text) for text in texts])
    by_source = labels.take(source.indices)
    if "dataset_id" not in table.column_names or not pa.types.is_dictionary(table["dataset_id"].type):
        return by_source
    datasets = table["dataset_id"].combine_chunks().dictionary_decode()
    # A file may have these columns too, left over from the Census it was cut from.
    soma = {source for source, survey in zip(label_of, opened.surveys, strict=True) if survey.layout == "soma"}
    is_soma = pa.array([text in soma for text in texts], pa.bool_()).take(source.indices)
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


def presence_npz(opened: OpenPlan, experiments: Container[str]) -> bytes:
    """Return an npz of ``presence`` bool (n_datasets, n_genes), ``datasets`` and ``genes``: measured there at all."""
    rows: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for number, survey in enumerate(opened.surveys):
        # An index without dataset_id does not say which datasets of a Census its cells come from: all, then.
        wanted = [name for name in survey.presence if _sample(opened, number, name) in experiments]
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
