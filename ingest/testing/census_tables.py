"""Arrow tables of a made-up Census, with the columns and types of the real one (schema 2.4.0); pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.testing.census_labels import ETHNICITIES, ORGANISMS, SEXES, Term, stage_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from ingest.testing.census_model import CensusSpec, OrganismModel
    from ingest.testing.census_x import Band

__all__ = [
    "Statistics",
    "cell_counts_table",
    "datasets_table",
    "obs_table",
    "organisms_table",
    "summary_table",
    "var_table",
]

_SCHEMA_VERSION = "2.4.0"
_COUNTED = (
    "assay",
    "cell_type",
    "disease",
    "self_reported_ethnicity",
    "sex",
    "suspension_type",
    "tissue",
    "tissue_general",
)
_NOT_APPLICABLE = Term("na", "na")


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What is known only once the counts are drawn; filled band by band."""

    nnz: np.ndarray[Any, np.dtype[np.int64]]
    """Genes with counts of each cell, ``(n_cells,)``."""
    mean: np.ndarray[Any, np.dtype[np.float64]]
    """Of a cell's non-zero counts, ``(n_cells,)``."""
    variance: np.ndarray[Any, np.dtype[np.float64]]
    """The same; NaN where there is a single one."""
    gene_nnz: np.ndarray[Any, np.dtype[np.int64]]
    """Cells with counts of each gene, ``(n_genes,)``."""

    @classmethod
    def empty(cls, n_cells: int, n_genes: int) -> Statistics:
        """Return statistics of no band yet."""
        return cls(np.zeros(n_cells, np.int64), np.zeros(n_cells), np.zeros(n_cells), np.zeros(n_genes, np.int64))

    def add(self, band: Band) -> None:
        """Fill in one band."""
        cells = slice(band.start, band.stop)
        self.nnz[cells] = np.diff(band.counts.indptr)
        self.mean[cells] = band.counts.mean
        self.variance[cells] = band.counts.variance
        self.gene_nnz[:] += np.bincount(band.counts.indices, minlength=len(self.gene_nnz))


def obs_table(model: OrganismModel, statistics: Statistics, seed: int) -> pa.Table:
    """Return obs in joinid order, every column of Census.

    Parameters
    ----------
    model
        Of the organism.
    statistics
        Of all its cells.
    seed
        Of the donors' traits and the observation joinids.
    """
    labels = _labels(model, seed)
    n_measured = np.array([dataset.measured.sum() for dataset in model.datasets])
    return pa.table(
        {
            "soma_joinid": pa.array(np.arange(len(model.dataset)), pa.int64()),
            "dataset_id": _dictionary([dataset.dataset_id for dataset in model.datasets], model.dataset),
            **{name: labels[name] for name in _LABEL_ORDER if name in labels},
            "raw_sum": pa.array(model.library.astype(np.float64)),
            "nnz": pa.array(statistics.nnz, pa.int64()),
            "raw_mean_nnz": pa.array(statistics.mean, pa.float64()),
            "raw_variance_nnz": pa.array(statistics.variance, pa.float64()),
            "n_measured_vars": pa.array(n_measured[model.dataset], pa.int64()),
        }
    )


_LABEL_ORDER = (
    *("assay", "assay_ontology_term_id", "cell_type", "cell_type_ontology_term_id"),
    *("development_stage", "development_stage_ontology_term_id", "disease", "disease_ontology_term_id"),
    *("donor_id", "is_primary_data", "observation_joinid"),
    *("self_reported_ethnicity", "self_reported_ethnicity_ontology_term_id", "sex", "sex_ontology_term_id"),
    *("suspension_type", "tissue", "tissue_ontology_term_id", "tissue_type"),
    *("tissue_general", "tissue_general_ontology_term_id"),
)


def _labels(model: OrganismModel, seed: int) -> dict[str, pa.Array]:
    donors, donor = np.unique(model.donor, return_inverse=True)
    traits = [_traits(model, int(number), seed) for number in donors]
    columns: dict[str, pa.Array] = {}
    for name in traits[0]:
        columns |= _term_columns(name, [trait[name] for trait in traits], donor)
    columns |= _term_columns("cell_type", *_of_origin(model, lambda study: study.cell_types, model.cell_type))
    columns |= _term_columns("tissue", *_of_origin(model, lambda study: [s.tissue for s in study.sites], model.choice))
    columns |= _term_columns(
        "tissue_general", *_of_origin(model, lambda study: [s.general for s in study.sites], model.choice)
    )
    suspensions = [dataset.study.suspension_type for dataset in model.datasets]
    return columns | {
        "donor_id": _dictionary([f"{'HM'[model.organism != 'homo_sapiens']}D-{n:04d}" for n in donors], donor),
        "is_primary_data": pa.array(model.is_primary),
        "observation_joinid": pa.array(_observation_joinids(len(model.dataset), seed), pa.large_string()),
        "suspension_type": _dictionary(suspensions, model.origin),
        "tissue_type": _dictionary(["tissue"], np.zeros(len(model.dataset), np.int64)),
    }


def _traits(model: OrganismModel, donor: int, seed: int) -> dict[str, Term]:
    """Return what all cells of one donor have in common; every second donor is healthy."""
    rng = np.random.default_rng([seed, donor])
    study, local = model.datasets[donor // 100].study, donor % 100
    ill = local % 2 == 1
    human = model.organism == "homo_sapiens"
    return {
        "assay": study.assays[local // 2 % len(study.assays)],
        "development_stage": stage_of(model.organism, int(rng.integers(20, 90))),
        "disease": study.diseases[1 + local // 2 % (len(study.diseases) - 1)] if ill else study.diseases[0],
        "self_reported_ethnicity": ETHNICITIES[rng.integers(len(ETHNICITIES))] if human else _NOT_APPLICABLE,
        "sex": SEXES[rng.integers(2)],
    }


def _of_origin(
    model: OrganismModel, options: Any, choice: np.ndarray[Any, Any]
) -> tuple[list[Term], np.ndarray[Any, Any]]:
    """Return all studies' `options` behind each other, and for each cell the place of its `choice` among them."""
    each = [list(options(dataset.study)) for dataset in model.datasets]
    sizes = np.array([len(terms) for terms in each])
    starts = np.cumsum(sizes) - sizes
    return [term for terms in each for term in terms], starts[model.origin] + choice % sizes[model.origin]


def _term_columns(name: str, terms: Sequence[Term], codes: np.ndarray[Any, Any]) -> dict[str, pa.Array]:
    return {
        name: _dictionary([term.label for term in terms], codes),
        f"{name}_ontology_term_id": _dictionary([term.ontology_id for term in terms], codes),
    }


def _dictionary(labels: Sequence[str], codes: np.ndarray[Any, Any]) -> pa.DictionaryArray:
    """Return the labels at `codes` as a dictionary of those that occur, sorted, with the narrowest index type."""
    present, used = np.unique(codes, return_inverse=True)
    values, places = np.unique([labels[code] for code in present], return_inverse=True)
    width = np.int8 if len(values) <= 127 else np.int16
    return pa.DictionaryArray.from_arrays(places[used.ravel()].astype(width), pa.array(values, pa.large_string()))


def _observation_joinids(n_cells: int, seed: int) -> list[str]:
    alphabet = np.frombuffer(
        b"!#$%&()*+-0123456789;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ^_abcdefghijklmnopqrstuvwxyz{|}~", "S1"
    )
    letters = alphabet[np.random.default_rng([seed, 7]).integers(0, len(alphabet), (n_cells, 10))]
    return [text.decode() for text in np.ascontiguousarray(letters).view("S10").ravel()]


def var_table(model: OrganismModel, nnz: np.ndarray[Any, Any]) -> pa.Table:
    """Return var in joinid order; `nnz` is the number of cells with counts, ``(n_genes,)``."""
    measured = sum(dataset.n_cells * dataset.measured.astype(np.int64) for dataset in model.datasets)
    genes = model.genes
    return pa.table(
        {
            "soma_joinid": pa.array(np.arange(len(genes.ids)), pa.int64()),
            "feature_id": pa.array(genes.ids, pa.large_string()),
            "feature_name": pa.array(genes.names, pa.large_string()),
            "feature_type": pa.array(genes.types, pa.large_string()),
            "feature_length": pa.array(genes.lengths, pa.int64()),
            "nnz": pa.array(nnz, pa.int64()),
            "n_measured_obs": pa.array(measured, pa.int64()),
        }
    )


def datasets_table(models: Sequence[OrganismModel]) -> pa.Table:
    """Return ``census_info/datasets``; its joinids are the rows of the presence matrices."""
    return _info_table(
        {
            "citation": f"Publication: https://doi.org/10.0000/made-up.{dataset.joinid} Dataset Version: made up",
            "collection_id": f"00000000-0000-4000-a000-{dataset.joinid:012d}",
            "collection_name": f"Made-up collection {dataset.joinid}",
            "collection_doi": f"10.0000/made-up.{dataset.joinid}",
            "collection_doi_label": f"Nobody et al. (20{20 + dataset.joinid % 6})",
            "dataset_id": dataset.dataset_id,
            "dataset_version_id": dataset.dataset_id[::-1],
            "dataset_title": dataset.study.title,
            "dataset_h5ad_path": f"{dataset.dataset_id}.h5ad",
            "dataset_total_cell_count": dataset.n_cells,
        }
        for model in models
        for dataset in model.datasets
    )


def organisms_table(models: Sequence[OrganismModel]) -> pa.Table:
    """Return ``census_info/organisms``."""
    return _info_table(
        {
            "organism_ontology_term_id": ORGANISMS[model.organism].ontology_id,
            "organism_label": ORGANISMS[model.organism].label,
            "organism": model.organism,
        }
        for model in models
    )


def summary_table(spec: CensusSpec, models: Sequence[OrganismModel]) -> pa.Table:
    """Return ``census_info/summary``: labels and values, all text."""
    facts = {
        "census_schema_version": _SCHEMA_VERSION,
        "census_build_date": spec.build_date,
        "dataset_schema_version": "7.0.0",
        "total_cell_count": str(sum(len(model.dataset) for model in models)),
        "unique_cell_count": str(sum(int(model.is_primary.sum()) for model in models)),
        **{f"number_donors_{model.organism}": str(len(np.unique(model.donor))) for model in models},
    }
    return _info_table({"label": label, "value": value} for label, value in facts.items())


def cell_counts_table(obs: Mapping[str, pa.Table]) -> pa.Table:
    """Return ``census_info/summary_cell_counts`` from the `obs` of every organism."""
    return _info_table(row for organism, table in obs.items() for row in _count_cells(organism, table))


def _count_cells(organism: str, table: pa.Table) -> Iterable[dict[str, Any]]:
    wanted = [
        "is_primary_data",
        *_COUNTED,
        *(f"{name}_ontology_term_id" for name in _COUNTED if name != "suspension_type"),
    ]
    frame = table.select(wanted).to_pandas()
    yield _count_row(organism, "all", "na", "na", frame)
    for category in _COUNTED:
        term = f"{category}_ontology_term_id"
        for label, cells in frame.groupby(category, observed=True):
            ontology_id = str(cells[term].iloc[0]) if term in cells else "na"
            yield _count_row(organism, category, str(label), ontology_id, cells)


def _count_row(organism: str, category: str, label: str, ontology_id: str, cells: pd.DataFrame) -> dict[str, Any]:
    return {
        "organism": ORGANISMS[organism].label,
        "category": category,
        "label": label,
        "ontology_term_id": ontology_id,
        "total_cell_count": len(cells),
        "unique_cell_count": int(cells["is_primary_data"].sum()),
    }


def _info_table(rows: Iterable[Mapping[str, str | int]]) -> pa.Table:
    found = list(rows)
    columns = {name: [row[name] for row in found] for name in found[0]}
    typed = {
        name: pa.array(values, pa.int64() if isinstance(values[0], int) else pa.large_string())
        for name, values in columns.items()
    }
    return pa.table({"soma_joinid": pa.array(range(len(found)), pa.int64()), **typed})
