"""One attempt at an archive, which nobody goes on with: what a killed process left is swept by the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.fetch.scratch_folder import ScratchFolder
from ingest.load.memmap.archive import Staging, disk_full

if TYPE_CHECKING:
    import os
    from pathlib import Path

__all__ = ["Attempt"]


class Attempt(Staging):
    """A folder of its own beside the archive, held for as long as this process lives.

    Parameters
    ----------
    path
        Of the archive to be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._held: ScratchFolder | None = None

    def make(self) -> Path:
        """Make the folder; remove those of killed attempts at the same archive."""
        with disk_full(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._held = ScratchFolder(self.path.parent, prefix=f"{self.folder.name}-")
            self.folder = self._held.path / self.path.name
            self.folder.mkdir()
        return self.folder

    def commit(self) -> None:
        """As of any; whether or not it goes well, nothing else is left."""
        try:
            super().commit()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the folder, with what is still in it."""
        if self._held is not None:
            self._held.close()
