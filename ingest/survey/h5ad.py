"""Survey an h5ad file: shape, layout, genes, version; a few small reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np

from ingest.fetch.h5ad_genes import read_genes
from ingest.fetch.h5ad_matrix import find_counts
from ingest.fetch.h5ad_obs import names_unique
from ingest.fetch.h5ad_open import OpenH5ad, open_h5ad
from ingest.scbasecount import place_of
from ingest.survey.model import SourceSurvey

if TYPE_CHECKING:
    from ingest.bandwidth import Line
    from ingest.source import Source

__all__ = ["survey_h5ad"]

_FACTS = {
    "title": "title",
    "citation": "citation",
    "organism": "organism",
    "organism_ontology_term_id": "organism_ontology_term_id",
    "doi": "doi",
    "license": "licence",
    "schema_version": "schema_version",
}
_MOST_TEXT = 4096


def survey_h5ad(
    source: Source,
    *,
    layer: str | None = None,
    strip_version: bool = False,
    allow_noninteger: bool = False,
    line: Line | None = None,
) -> SourceSurvey:
    """Look at one h5ad file without reading its counts: headers, gene table, cell names and a sample of values.

    Parameters
    ----------
    source
        Its version, if it has one, is compared with the file's.
    layer
        Matrix to take, as the user names it; else it is found.
    strip_version
        Take ``.N`` off Ensembl ids.
    allow_noninteger
        Accept a matrix of fractional values.
    line
        What all bytes from a network pass.

    Raises
    ------
    NotCountsError
        No matrix holds counts, or several might.
    SourceChangedError, SourceError, ConfigError, TransientError
        As `ingest.fetch.h5ad_open.open_h5ad` and `ingest.fetch.h5ad_genes.read_genes`.
    """
    with open_h5ad(source, warm=True, line=line) as file:
        matrix = find_counts(file, layer, allow_noninteger=allow_noninteger)
        genes = read_genes(file, matrix.var_path, strip_version=strip_version)
        label = file.source.label
        survey = SourceSurvey(
            source=file.source,
            n_obs=matrix.shape[0],
            layout=matrix.layout,
            matrix=matrix.path,
            dtype=matrix.dtype,
            nnz=matrix.nnz,
            band_rows=matrix.chunk_rows,
            stored_bytes=matrix.stored_bytes,
            names_unique=names_unique(file),
            genes=genes,
            presence={label: np.ones(len(genes), np.bool_)},
            integer=matrix.integer,
            datasets={label: _placed(file.source) | _facts(file)},
        )
        file.check_unchanged()
    return survey


def _placed(source: Source) -> dict[str, str]:
    """Return what the place of a scBaseCount's file says of it."""
    place = place_of(source)
    return {} if place is None else {"organism": place.organism.replace("_", " ")}


def _facts(file: OpenH5ad) -> dict[str, str]:
    """Return what ``uns`` says of the dataset: short texts only, under our names."""
    facts = {}
    for name, ours in _FACTS.items():
        node = file.get(f"uns/{name}")
        if isinstance(node, h5py.Dataset) and node.shape == () and h5py.check_string_dtype(node.dtype):
            with file.reading(f"uns/{name}"):
                facts[ours] = node.asstr()[()][:_MOST_TEXT]
    return facts
