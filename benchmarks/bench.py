"""What every benchmark is given, and the Ray it runs on."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.census import select

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.census import Selection
    from benchmarks.store import BenchStore
    from ingest.testing.census import BuiltCensus

__all__ = ["Bench", "connected_ray"]

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """The place, the data and the amount of measuring."""

    folder: Path
    """Scratch, on the disk that is measured."""
    census: BuiltCensus
    store: BenchStore
    workers: int
    repeats: int
    """Rounds of what is compared by medians of ratios."""
    quick: bool
    """Little data and one round: to see that everything runs, not how fast."""
    python312: Path | None = None
    """For loaders that need Python 3.12; None: what is on PATH."""
    selections: dict[float, Selection] = field(default_factory=dict)

    def selection(self, density: float) -> Selection:
        """Return the selection of that share of the cells, made once."""
        if density not in self.selections:
            self.selections[density] = select(self.census, self.folder, density)
        return self.selections[density]

    @property
    def chunk_sizes(self) -> tuple[int, int]:
        """Cells in a small file and in a large one, as the first seed's."""
        return (50, 500) if self.quick else (100, 5_000)

    def fresh_folder(self, name: str) -> Path:
        """Return a folder that does not exist; what an earlier run left under the name is removed."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path


@contextmanager
def connected_ray(workers: int) -> Iterator[None]:
    """Be connected to one Ray for all that is measured, whose workers can import this package.

    Enter it after the store is up: the workers inherit its credentials from the environment of this moment.
    """
    from actors.cluster import connect

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), before]))
    try:
        with connect(workers=workers):
            yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
