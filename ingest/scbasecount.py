"""How Arc's scBaseCount lies in its bucket: releases, features, organisms, and one h5ad file a sample. Pure.

::

    <root>/<release>/h5ad/<Feature>/<Organism>/<accession>.h5ad
    <root>/<release>/metadata/<Feature>/<Organism>/sample_metadata.parquet     one row a sample
    <root>/<release>/metadata/<Feature>/<Organism>/obs_metadata.parquet        one row a cell
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from ingest.source import Source

__all__ = [
    "ACCESSION",
    "BARCODE",
    "CELLS_OF_SAMPLE",
    "PUBLIC_BUCKET",
    "PUBLIC_ROOT",
    "Place",
    "is_czi",
    "place_of",
]

PUBLIC_BUCKET: Final = "arc-institute-virtual-cell-atlas"
PUBLIC_ROOT: Final = f"gs://{PUBLIC_BUCKET}/scbasecount"

ACCESSION: Final = "SRX_accession"
"""Column of a cell's sample, in an index as in obs_metadata."""
BARCODE: Final = "cell_barcode"
"""Column of a cell's own name: what the obs index of its file has at its row."""
CELLS_OF_SAMPLE: Final = "obs_count"
"""Column of the cells that a sample has according to sample_metadata."""

_FILE = re.compile(
    r"/(?P<release>\d{4}-\d{2}-\d{2})/h5ad/(?P<feature>[^/]+)/(?P<organism>[^/]+)/(?P<accession>[A-Z]RX\w+)\.h5ad\Z"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample's file stands."""

    release: str
    """Date."""
    feature: str
    """What STARsolo counted: ``Gene``, ``GeneFull_Ex50pAS``, …"""
    organism: str
    """As the folder has it: ``Homo_sapiens``."""
    accession: str
    """SRX, ERX or DRX of the Sequence Read Archive; NRX of a CELLxGENE collection processed again."""

    @property
    def folder(self) -> tuple[str, str, str]:
        """What samples share that were counted against one and the same list of genes."""
        return self.release, self.feature, self.organism


def place_of(source: Source) -> Place | None:
    """Return where `source` stands in a scBaseCount, or None: it is something else."""
    found = _FILE.search(unquote(source.address)) if source.kind == "h5ad" else None
    return Place(**found.groupdict()) if found else None


def is_czi(accession: str, collection: str | None) -> bool:
    """Say whether a sample is a CELLxGENE collection processed again, whose cells a Census may hold as well."""
    return bool(collection) or accession.startswith("NRX")
