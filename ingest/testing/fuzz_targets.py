"""What the fuzzer changes, and who reads it: files and folders made once, from which each case makes its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py

from ingest.testing.census import CensusSpec, build_census
from ingest.testing.entry_points.census import CENSUS
from ingest.testing.entry_points.dest import DEST
from ingest.testing.entry_points.files import ARCHIVE, CHUNK, CONFIG, INDEX, SCBASECOUNT
from ingest.testing.entry_points.h5ad import H5AD
from ingest.testing.hostile.dests import resealed, write_good_dest
from ingest.testing.hostile.documents import leaf_changes
from ingest.testing.hostile.h5ad_matrix import MATRIX
from ingest.testing.hostile.h5ad_storage import STORAGE
from ingest.testing.hostile.h5ad_tables import TABLES
from ingest.testing.mutations import mutate
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount
from ingest.testing.shelf import Shelf

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ingest.testing.entry_points.base import EntryPoint

__all__ = ["Target", "make_targets"]

_SLOW = frozenset({"run", "hvg", "qc", "memmap", "verify --deep", "convert normalize", "convert rows"})
"""Drawn one time in eight."""
_CHANGES = [change for name, change in {**MATRIX, **TABLES, **STORAGE}.items() if "wide" not in name]


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of thing that is read."""

    name: str
    good: Path
    """A file, or a folder of which one file is changed."""
    entries: Sequence[EntryPoint]
    files: Sequence[str] = ()
    """Of a folder: those that may be changed, relative to it."""
    structured: Callable[[random.Random, Path], None] | None = None
    """Changes a copy of the file by what it means; else bytes are changed."""
    agree: tuple[EntryPoint, EntryPoint] | None = None
    """Two of the entry points: what the first finds nothing wrong with, the second reads as it was."""

    def case(self, draw: random.Random, folder: Path) -> tuple[Path, str]:
        """Make a case in an empty folder; return what is read and which file was changed."""
        if not self.files:
            path = folder / self.good.name
            shutil.copyfile(self.good, path)
            self._change(draw, path)
            return path, path.name
        copy, name = folder / self.good.name, draw.choice(list(self.files))
        shutil.copytree(self.good, copy)
        self._change(draw, copy / name)
        return copy, name

    def _change(self, draw: random.Random, path: Path) -> None:
        structured = self.structured
        if path.suffix == ".json":
            structured = change_document
        if structured is not None and draw.random() < 0.5:
            structured(draw, path)
            if draw.random() < 0.7:
                return
        path.write_bytes(mutate(draw, path.read_bytes()))

    def entry(self, draw: random.Random) -> EntryPoint:
        """Draw who reads."""
        fast = [entry for entry in self.entries if entry.name not in _SLOW]
        return draw.choice(list(self.entries) if draw.random() < 0.125 or not fast else fast)


def change_document(draw: random.Random, path: Path) -> None:
    """Replace one value of a JSON document, and seal it again where it was sealed."""
    good = path.read_bytes()
    try:
        changes = list(leaf_changes(json.loads(good)))
        path.write_bytes(resealed(good, draw.choice(changes)[1]))
    except (ValueError, IndexError, RecursionError):  # no document any more, or none that can be spelled
        return


def change_h5ad(draw: random.Random, path: Path) -> None:
    """Make one or two of the corpus' changes."""
    with h5py.File(path, "r+") as file:
        for change in draw.sample(_CHANGES, draw.choice([1, 1, 2])):
            try:
                change(file)
            except Exception:  # noqa: BLE001, S112 # the second may not fit what the first has left
                continue


def make_targets(folder: Path) -> tuple[Target, ...]:
    """Make all targets in an empty folder."""
    from ingest.load.memmap.convert.api import create_archive

    dest = write_good_dest(folder)
    shelf = Shelf(folder)
    archive = create_archive(str(dest), folder / "archive", data_dtype="auto", pool="serial")
    built = build_scbasecount(
        folder / "scb", ScBaseCountSpec(mean_cells=12, n_genes=30, mean_molecules=20, row_group=20)
    )
    census = build_census(folder / "census", CensusSpec(n_cells=400, n_genes=200, mean_nnz_per_cell=30)).path
    config = folder / "config.json"
    config.write_text(json.dumps({"cells_per_chunk": 10, "level": 3, "quality_control": {"min_genes": 3, "mad": 5}}))
    by_name = {entry.name: entry for entry in DEST}
    kept = [path.relative_to(dest).as_posix() for path in sorted(dest.rglob("*")) if path.suffix in _READ]
    return (
        Target("h5ad", folder / "good.h5ad", H5AD, structured=change_h5ad),
        *(
            Target(f"chunk {kind}", min((shelf.made(kind) / "chunks").iterdir()), CHUNK, structured=change_h5ad)
            for kind in ("float32-deflate", "float32-zstd", "float32-none", "h5-deflate")
        ),
        Target("index", folder / "index.feather", INDEX),
        Target("settings", config, CONFIG),
        Target("dest", dest, DEST, kept, agree=(by_name["verify"], by_name["load"])),
        Target("archive", archive, ARCHIVE, _names(archive)),
        Target("scbasecount", built.path, SCBASECOUNT, _names(built.path, ".parquet")),
        Target("census", census, CENSUS, [name for name in _names(census) if _is_read_here(name)]),
    )


_READ = (".json", ".feather", ".npz", ".h5ad")


def _is_read_here(name: str) -> bool:
    """Tell groups, schemas and X, whose tiles are read here, from tables, whose offsets TileDB's own code believes.

    That reads wherever they lead, and may take the process with it.
    """
    return "__fragments" not in name or "/X/raw/" in name


def _names(folder: Path, suffix: str = "") -> list[str]:
    paths = (path for path in sorted(folder.rglob(f"*{suffix}")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]
