"""What the sources looked like before planning: plain values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from ingest.genes import Genes
    from ingest.source import Source

__all__ = ["Fault", "Layout", "SourceSurvey"]

Layout = Literal["soma", "csr", "csc", "dense"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a source cannot be used, though others of its kind can."""

    kind: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class SourceSurvey:
    """One small read of one source."""

    source: Source
    """With the version found (never an alias, never empty for an h5ad)."""
    n_obs: int
    """Rows; a coordinate (joinid or row) is below this."""
    layout: Layout
    """How the matrix lies in the source."""
    matrix: str
    """Which matrix: ``X``, ``raw/X``, ``layers/counts`` in an h5ad; ``RNA/X/raw`` in SOMA."""
    dtype: str
    """Numpy name of the stored values' type."""
    nnz: int
    """Stored entries (all of the matrix); rows x columns when dense."""
    band_rows: int
    """Rows of one source tile: what is decoded together (2048 in Census, HDF5 chunk rows when dense, 1 when any)."""
    stored_bytes: int
    """Bytes of the matrix as stored, compressed."""
    names_unique: bool
    """Whether obs names are unique within the source; SOMA: joinids are."""
    genes: Genes
    """The source's own columns."""
    presence: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]]
    """dataset_id -> bool ``(n_vars,)``: was this gene measured there. An h5ad has one entry, keyed by its label."""
    integer: bool
    """Whether the sampled values are whole numbers."""
    datasets: Mapping[str, Mapping[str, str]]
    """dataset_id -> what is known of it (title, collection, citation, doi, licence, organism), for experiments.json."""
    fault: Fault | None = None
    """What keeps its cells from being read; all that could not be found out is 0 or empty then."""
