"""A scratch folder of the driver's own: for sorting, and for files that are put into the store when they are whole."""

from __future__ import annotations

import errno
import weakref
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from ingest.errors import ConfigError, DiskFullError
from ingest.fetch.scratch_folder import ScratchFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Scratch"]


class Scratch:
    """A new folder in `parent`; it goes when it is closed, when nobody has it any more, or with the process.

    Parameters
    ----------
    parent
        None: the system's temporary folder.

    Raises
    ------
    ConfigError
        It cannot be made (kind ``scratch``).
    """

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent or Path(gettempdir())
        try:
            folder = ScratchFolder(self._parent)
        except OSError as error:
            raise self._explain(error) from error
        self.path = folder.path
        self._finalizer = weakref.finalize(self, folder.close)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Say in one line what a full or broken disk does to whatever is written here meanwhile.

        Raises
        ------
        ConfigError
            ``disk-full``, ``scratch``.
        """
        try:
            yield
        except OSError as error:
            raise self._explain(error) from error

    def close(self) -> None:
        """Remove the folder; closing twice is closing once."""
        self._finalizer()

    def _explain(self, error: OSError) -> ConfigError:
        hint = "name another folder with --scratch"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(f"scratch folder {self._parent}: the disk is full", hint=hint)
        return ConfigError(f"scratch folder {self._parent}: {error}", kind="scratch", hint=hint)
