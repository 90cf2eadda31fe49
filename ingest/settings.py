"""Every setting of a run, resolved: what shapes the data, and how the work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ingest.encode.open import FORMATS
from ingest.vocabulary import GeneRule
from ingest.window_order import window_order

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ingest.window_order import WindowOrder

__all__ = ["DEFAULT_CELLS_PER_CHUNK", "DEFAULT_MEMORY_BYTES", "DataSettings", "WorkSettings"]

DEFAULT_CELLS_PER_CHUNK = FORMATS["h5ad"].cells_per_chunk
DEFAULT_MEMORY_BYTES = 3 << 29  # 1.5 GiB


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What shapes the data; it becomes the plan's identity. Defaults are those of h5ad; `FORMATS` has each format's."""

    max_cells: int | None = None
    """The first so many rows of the index (``-n``)."""
    cells_per_chunk: int = DEFAULT_CELLS_PER_CHUNK
    genes: GeneRule = field(default_factory=GeneRule)
    strip_version: bool = False
    """``ENSG00000141510.18`` becomes ``ENSG00000141510``."""
    layer: str | None = None
    """Which matrix of an h5ad; None detects the counts."""
    allow_noninteger: bool = False
    format: str = "h5ad"
    dtype: str = "float32"
    codec: str = "deflate"
    level: int = 1
    normalize: float | None = None
    """Store ``log1p`` of counts brought to this total a cell; None stores counts."""
    shuffle: Literal["none", "window"] = "none"
    shuffle_window: int | None = None
    """Cells of a window, a multiple of `cells_per_chunk`; None: the fewest that hold 32,768."""
    shuffle_seed: int = 0

    @property
    def order(self) -> WindowOrder | None:
        """In which order cells stand; None: that of their sources. Raises ``ConfigError`` where it cannot be."""
        return window_order(self.shuffle, self.shuffle_window, self.shuffle_seed, cells_per_chunk=self.cells_per_chunk)


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """How the work is done; recorded, never compared."""

    workers: int | None = None
    """None: one a CPU, fewer when memory is short; on a cluster as many as it has room for."""
    cpus: int | None = None
    """Of one worker: what it asks of Ray, and its threads. None: its share of this machine, one on a cluster."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Of a cluster's nodes, by name: what one worker takes beside CPUs and memory."""
    on_cluster: bool = False
    """Whether workers are on machines of which nothing is known here."""
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    """Most that one worker may hold."""
    scratch: Path | None = None
    """For transpositions larger than memory; None: the system's temporary folder."""
    endpoint_url: str | None = None
    pool: Literal["ray", "serial"] = "ray"
    dashboard: bool = False
    max_failed_pct: float | None = None
    """Stop early when more than this share of the chunks, in per cent, has failed."""
    single_driver: bool = False
    """Accept a store that ignores preconditions, on the promise that nobody else writes to DEST."""
    cells_json: bool = False
    """Write ``metadata/cells.json``, too."""
    bytes_per_s: float | None = None
    """What all workers together may read from and write to networks; None: as much as comes."""
    deadline_s: float | None = None
    """For one unit; None: ten minutes, a hundredth of a second for every cell, a second for every stored megabyte."""
