"""Workers of a conversion that die when the bytes of a part are written, and nothing says so: for tests."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.load.memmap.convert.worker import ConvertWorker

if TYPE_CHECKING:
    from ingest.load.memmap.archive import ArrayFiles
    from ingest.load.memmap.convert.worker import ConvertFactory
    from ingest.load.memmap.convert.workplace import PartReceipt

__all__ = ["DyingFactory"]


@dataclass(frozen=True, slots=True)
class DyingFactory:
    """Make workers that die at some parts, once each."""

    factory: ConvertFactory
    folder: str
    """An existing folder where deaths are marked, and who wrote which part; a dead process cannot remember them."""
    parts: tuple[int, ...]

    @property
    def threads(self) -> int:
        """CPUs of one worker."""
        return self.factory.threads

    def __call__(self) -> ConvertWorker:
        """Make one worker."""
        return _DyingWorker(self)


class _DyingWorker(ConvertWorker):
    def __init__(self, script: DyingFactory) -> None:
        super().__init__(script.factory)
        self._script = script

    def _sync(self, arrays: ArrayFiles, receipt: PartReceipt) -> None:
        mark = Path(self._script.folder, f"died-{receipt.part}")
        if receipt.part in self._script.parts and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._sync(arrays, receipt)
        Path(self._script.folder, f"wrote-{receipt.part}-{os.getpid()}").touch()
