"""What a folder of h5ad files comes to, by the files' own word, before anything of it is converted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FolderSurvey"]

_GROUPS = {"raw": "raw/X", "X": "X"}


@dataclass(frozen=True, slots=True)
class FolderSurvey:
    """Files, and what they hold together."""

    files: int
    cells: int
    entries: int
    """Stored ones."""
    columns: int
    """Of the file that has most."""
    raw: bool
    """Counts are taken from ``raw.X``; else from ``X``."""

    @classmethod
    def of(cls, folder: Path, taken: str | None = None) -> FolderSurvey:
        """Look into every file.

        Parameters
        ----------
        taken
            ``raw``, ``X``, or None for what the first file has, ``raw`` before ``X``.

        Raises
        ------
        SystemExit
            There is no file, or one without a CSR matrix there.
        """
        paths = sorted(folder.rglob("*.h5ad"))
        if not paths:
            raise SystemExit(f"error: no h5ad files in {folder}")
        group = _GROUPS[taken or _first_has(paths[0])]
        cells, entries, columns = zip(*(_look(path, group) for path in paths), strict=True)
        return cls(len(paths), sum(cells), sum(entries), max(columns), group != "X")

    @property
    def archive_bytes(self) -> int:
        """Of one archive's arrays, with values of 32 bits."""
        columns = 2 if self.columns <= 1 << 16 else 4
        return (4 + columns) * self.entries + 8 * self.cells

    def text(self) -> str:
        """Return it in a line."""
        where = "raw.X" if self.raw else "X"
        return (
            f"{self.files} files, {self.cells:,} cells, {self.entries:,} entries in {where}: "
            f"archives of {self.archive_bytes / 2**30:.3g} GiB"
        )

    def check_room(self, scratch: Path, archives: int) -> None:
        """See that so many archives fit.

        Raises
        ------
        SystemExit
            They do not.
        """
        wanted, free = archives * self.archive_bytes, shutil.disk_usage(scratch).free
        if wanted > free:
            raise SystemExit(
                f"error: {scratch} has {free / 2**30:.3g} GiB free, {archives} archives want {wanted / 2**30:.3g}"
            )


def _first_has(path: Path) -> str:
    with h5py.File(path) as file:
        return "raw" if "raw/X" in file else "X"


def _look(path: Path, group: str) -> tuple[int, int, int]:
    with h5py.File(path) as file:
        matrix: Any = file.get(group)
        if not isinstance(matrix, h5py.Group) or matrix.attrs.get("encoding-type") != "csr_matrix":
            raise SystemExit(f"error: {path} has no CSR matrix in {group} (--take says where to look)")
        rows, columns = matrix.attrs["shape"]
        return int(rows), int(matrix["data"].shape[0]), int(columns)
