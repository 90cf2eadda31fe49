"""What a Census looks like before planning: schemas, fragment metadata and the small tables, no counts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import SourceError
from ingest.fetch.ranges import coordinate_of, ranges_of
from ingest.fetch.soma_errors import soma_errors
from ingest.fetch.soma_open import open_experiment
from ingest.genes import Genes
from ingest.survey.model import SourceSurvey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import pyarrow as pa

    from ingest.fetch.base import FetchLimits
    from ingest.fetch.soma_open import OpenExperiment
    from ingest.source import Source

__all__ = ["cell_sums", "survey_soma"]

_BYTES_PER_ENTRY = 2
_DATASET_FACTS = {
    "title": "dataset_title",
    "collection": "collection_name",
    "collection_id": "collection_id",
    "citation": "citation",
    "doi": "collection_doi",
    "version_id": "dataset_version_id",
    "licence": "license",
}
_OBS_GAP = 10_000
_JOINIDS_AT_ONCE = 1_000_000


def survey_soma(source: Source, limits: FetchLimits, *, datasets: Collection[str] | None) -> SourceSurvey:
    """Survey X raw of one organism.

    ``stored_bytes`` is the size of the fragments where they lie in a local folder; elsewhere it is estimated at 2
    bytes an entry, about what Zstd leaves of a Census. A dataset without a row of its own in the presence matrix has
    none in the survey: what it measured is unknown, which is not the same as nothing.

    Parameters
    ----------
    source
        ``census`` or ``soma``; a version found is filled in (see `ingest.fetch.soma_open.open_experiment`).
    limits
        This process's share of the machine.
    datasets
        dataset_ids whose presence and facts are wanted; None for all of this organism.

    Raises
    ------
    SourceError
        It lacks var, X raw or their columns; gene ids are not unique.
    SourceChangedError, ConfigError, TransientError
        As opening does.
    """
    with open_experiment(source, limits) as opened, soma_errors(source):
        raw = opened.raw
        genes = _genes(opened)
        known = _known_datasets(opened)
        presence = _presence(opened, known, datasets, len(genes))
        wanted = presence.keys() if datasets is None else datasets
        dtype = np.dtype(raw.schema.field("soma_data").type.to_pandas_dtype())
        n_obs, nnz = _n_obs(opened), int(raw.nnz)
        return SourceSurvey(
            source=replace(source, version=opened.version),
            n_obs=n_obs,
            layout="soma",
            matrix="RNA/X/raw",
            dtype=dtype.name,
            nnz=nnz,
            band_rows=max(1, min(_band_rows(raw), n_obs)),
            stored_bytes=_stored_bytes(source, nnz),
            names_unique=True,
            genes=genes,
            presence=presence,
            integer=True,
            datasets={name: facts for name, (_, facts) in known.items() if name in wanted},
        )


def _n_obs(opened: OpenExperiment) -> int:
    """Return one more than the largest joinid; in a Census that is the number of cells."""
    return int(opened.obs.non_empty_domain()[0][1]) + 1 if opened.obs.count else 0


def _band_rows(raw: Any) -> int:
    return int(json.loads(raw.schema_config_options().dims)["soma_dim_0"]["tile"])


def _stored_bytes(source: Source, nnz: int) -> int:
    if source.path is None:
        return nnz * _BYTES_PER_ENTRY
    folder = source.path / "census_data" / source.organism / "ms" / "RNA" / "X" / "raw" / "__fragments"
    found = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    # Members of a collection may lie elsewhere than their names say.
    return found or nnz * _BYTES_PER_ENTRY


def _genes(opened: OpenExperiment) -> Genes:
    there = opened.var.schema.names
    if "feature_id" not in there:
        where = str(opened.source)
        raise SourceError(f"{where}: var has no feature_id, only {', '.join(there)}", kind="no-gene-ids", source=where)
    columns = [name for name in ("soma_joinid", "feature_id", "feature_name", "feature_length") if name in there]
    table = opened.var.read(column_names=columns).concat().sort_by("soma_joinid")
    _check_joinids(opened, table)
    ids = table["feature_id"].to_pylist()
    names = table["feature_name"].to_pylist() if "feature_name" in columns else ids
    lengths = table["feature_length"].to_pylist() if "feature_length" in columns else [0] * len(ids)
    try:
        return Genes(tuple(ids), tuple(name or gene for name, gene in zip(names, ids, strict=True)), tuple(lengths))
    except ValueError as error:
        raise SourceError(f"{opened.source}: {error}", kind="duplicate-gene", source=str(opened.source)) from error


def _check_joinids(opened: OpenExperiment, table: pa.Table) -> None:
    # A column of X is a var joinid: only with joinids 0, 1, 2, … is it the position in the vocabulary as well.
    if not np.array_equal(table["soma_joinid"].to_numpy(), np.arange(len(table))):
        where = str(opened.source)
        raise SourceError(f"{where}: var's joinids are not 0 to {len(table) - 1}", kind="var-joinids", source=where)


def _known_datasets(opened: OpenExperiment) -> dict[str, tuple[int, dict[str, str]]]:
    """Return dataset_id -> (joinid, facts) of every dataset of the Census, whatever its organism."""
    info = opened.census["census_info"]
    if "datasets" not in info:
        return {}
    rows = info["datasets"].read().concat().to_pylist()
    return {row["dataset_id"]: (int(row["soma_joinid"]), _facts(row, opened.source.organism)) for row in rows}


def _facts(row: Mapping[str, Any], organism: str) -> dict[str, str]:
    facts = {name: str(row[column]) for name, column in _DATASET_FACTS.items() if row.get(column)}
    return facts | {"organism": organism}


def _presence(
    opened: OpenExperiment,
    known: Mapping[str, tuple[int, object]],
    datasets: Collection[str] | None,
    n_genes: int,
) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    matrix = opened.presence
    if matrix is None:
        return {}
    at = {joinid: name for name, (joinid, _) in known.items() if datasets is None or name in datasets}
    presence: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    # A joinid beyond the matrix's rows would be refused, not merely absent.
    rows = np.array(sorted(row for row in at if row < matrix.shape[0]), np.int64)
    if not len(rows):
        return presence
    for table in matrix.read((rows,)).tables():
        measured = table["soma_data"].to_numpy().astype(np.bool_)
        dim0, dim1 = table["soma_dim_0"].to_numpy()[measured], table["soma_dim_1"].to_numpy()[measured]
        for row in np.unique(dim0):
            present = presence.setdefault(at[int(row)], np.zeros(n_genes, np.bool_))
            present[dim1[dim0 == row]] = True
    return presence


def cell_sums(
    source: Source, joinids: np.ndarray[Any, np.dtype[np.int64]], limits: FetchLimits
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Return (nnz, raw_sum) of each cell as the Census itself states them, for indexes that lack the columns.

    Parameters
    ----------
    source
        At the version the index names.
    joinids
        int64 ``(n,)``, in any order.
    limits
        This process's share of the machine.

    Returns
    -------
    tuple
        int64 ``(n,)`` and float64 ``(n,)``.

    Raises
    ------
    SourceError
        ``no-cell-sums``: obs lacks the columns; ``row-range``: there is no such cell.
    SourceChangedError, ConfigError, TransientError
        As opening does.
    """
    joinids = np.ascontiguousarray(joinids, np.int64)
    order = np.argsort(joinids, kind="stable")
    nnz, raw_sum = np.zeros(len(joinids), np.int64), np.zeros(len(joinids), np.float64)
    with open_experiment(source, limits) as opened, soma_errors(source):
        _require_sums(opened)
        for begin in range(0, len(order), _JOINIDS_AT_ONCE):
            part = order[begin : begin + _JOINIDS_AT_ONCE]
            nnz[part], raw_sum[part] = _sums_of(opened, joinids[part])
    return nnz, raw_sum


def _require_sums(opened: OpenExperiment) -> None:
    if missing := [name for name in ("nnz", "raw_sum") if name not in opened.obs.schema.names]:
        where = str(opened.source)
        raise SourceError(f"{where}: obs has no {', '.join(missing)}", kind="no-cell-sums", source=where)


def _sums_of(opened: OpenExperiment, joinids: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[Any, Any]:
    """Return (nnz, raw_sum) of ascending `joinids`; what lies closely between two of them is read as well."""
    nnz, raw_sum = np.full(len(joinids), -1, np.int64), np.zeros(len(joinids), np.float64)
    last = int(opened.obs.non_empty_domain()[0][1]) if opened.obs.count else -1
    known = joinids[(joinids >= 0) & (joinids <= last)]
    if len(known):
        coordinate = coordinate_of(ranges_of(np.unique(known), _OBS_GAP))
        for table in opened.obs.read((coordinate,), column_names=["soma_joinid", "nnz", "raw_sum"]):
            found = table["soma_joinid"].to_numpy()
            order = np.argsort(found)
            at = np.minimum(np.searchsorted(found[order], joinids), len(found) - 1)
            mine = found[order][at] == joinids
            nnz[mine] = table["nnz"].to_numpy()[order][at[mine]]
            raw_sum[mine] = table["raw_sum"].to_numpy()[order][at[mine]]
    if (nnz < 0).any():
        where = str(opened.source)
        message = f"{where}: there is no cell with soma_joinid {joinids[nnz < 0][0]}"
        raise SourceError(message, kind="row-range", source=where)
    return nnz, raw_sum
