"""How a training loader is asked to load, the same for every way; read in every way's own environment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LoadSettings", "Loader"]


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What a loader is told."""

    block_cells: int = 64
    """Consecutive cells that stay together until they are in the buffer."""
    buffer_cells: int = 8_192
    """Cells held in memory and shuffled there."""
    batch_cells: int = 512
    workers: int = 0
    """Processes of a torch DataLoader; 0 for none."""
    form: str = "csr"
    """``csr`` or ``dense``: what is delivered."""
    seed: int = 0

    @property
    def fetch_batches(self) -> int:
        """Batches in a buffer."""
        return self.buffer_cells // self.batch_cells

    def text(self) -> str:
        """Return it for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> LoadSettings:
        """Read what `text` returned."""
        return cls(**json.loads(text))


class Loader(Protocol):
    """A way to load, opened: each peer's module has ``open_loader(place, settings)`` that returns one."""

    def epoch(self, number: int) -> Iterator[Any]:
        """Yield each batch's matrix as it is delivered, ``(batch_cells, n_genes)``; every epoch in another order."""
        ...
