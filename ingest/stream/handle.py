"""An h5ad file as an object that costs nothing until it is asked for something."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ingest.errors import IngestError
from ingest.stream.storage import address_of_data, get_matrix_storage_format, open_data, resolve_data_path

if TYPE_CHECKING:
    from types import TracebackType

    import anndata

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.lazy_table import LazyTable
    from ingest.stream.lazy_uns import LazyUns

__all__ = ["AnnData", "read_backed", "read_h5ad_ondisk"]

Mode = Literal["r", "r+"]


class AnnData:
    """A handle on one h5ad file, local or remote: a path that can be asked for its tables and its anndata.

    It opens the file when it is first asked for something, and again when another file has taken its place, so it
    always tells what is there now. It pickles as its path and mode; ``os.fspath`` and ``str`` give the path. What is
    not named here is asked of `backed`: ``handle.X[:10]``, ``handle.obsm``, ``handle[:, genes]``.

    Parameters
    ----------
    path
        Path or URL (``https://``, ``s3://``, ``gs://``); or what names one, such as another handle.
    mode
        ``r``, or ``r+`` where X is to be changed through `backed`, in place, without the safety of this package's
        writing functions.

    Raises
    ------
    NoFileError
        A FileNotFoundError: there is no such local file.
    ValueError
        Another mode.
    ConfigError
        ``remote-file``: ``r+`` of a remote file.
    TypeError
        `path` names no file.
    """

    def __init__(self, path: Any, *, mode: Mode = "r") -> None:
        if mode not in ("r", "r+"):
            raise ValueError(f"mode {mode!r}: r, or r+ to change X in place")
        address = address_of_data(path)
        if "://" not in address or mode == "r+":
            address = os.fspath(resolve_data_path(address))
        self._restore(address, mode)

    def _restore(self, address: str, mode: Mode) -> None:
        # The file is the one that was meant here, wherever this process, or who unpickles it, goes.
        self._address, self._mode = address if "://" in address else str(Path(address).absolute()), mode
        self._opened: OpenH5ad | None = None
        self._backed: anndata.AnnData | None = None
        self._backed_file: tuple[int, int] | None = None
        self._pid = os.getpid()

    @property
    def path(self) -> Path | str:
        """The path, absolute; the URL, as text, of a remote file."""
        return self._address if self.is_remote else Path(self._address)

    @property
    def filename(self) -> str:
        """The path or URL as text."""
        return self._address

    @property
    def is_remote(self) -> bool:
        """Whether it lies on a server."""
        return "://" in self._address

    @property
    def opened(self) -> OpenH5ad:
        """The file, open and examined; this handle's own, which closes it.

        Raises
        ------
        NoFileError, HostileFileError, ConfigError, CredentialsError, TransientError
            As of `ingest.stream.storage.open_data`.
        """
        if self._pid != os.getpid():  # HDF5 does not survive a fork
            self._opened = self._backed = None
        elif self._opened is not None and not self._is_current(self._opened):
            self._opened.close()
            self._opened = None
        if self._opened is None:
            self._opened, self._pid = open_data(self._address), os.getpid()
        return self._opened

    @property
    def backed(self) -> anndata.AnnData:
        """The file as anndata has it, matrices on disk; see `ingest.stream.whole.backed_by`.

        Raises
        ------
        HostileFileError, NotCountsError
            It is damaged.
        """
        opened = self.opened
        if self._backed is None or self._backed_file != self._file():
            from ingest.stream.whole import backed_by

            self._backed, self._backed_file = backed_by(opened, self._mode), self._file()
        return self._backed

    @property
    def obs(self) -> LazyTable:
        """Table of the cells, unread."""
        from ingest.stream.lazy_table import LazyTable

        return LazyTable(self, "obs")

    @property
    def var(self) -> LazyTable:
        """Table of the genes, unread."""
        from ingest.stream.lazy_table import LazyTable

        return LazyTable(self, "var")

    @property
    def uns(self) -> LazyUns:
        """Entries of uns, unread."""
        from ingest.stream.lazy_uns import LazyUns

        return LazyUns(self)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return len(self.obs), len(self.var)

    @property
    def n_obs(self) -> int:
        """Cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """Genes."""
        return len(self.var)

    def to_memory(self) -> anndata.AnnData:
        """Return all of it in memory, as ``anndata.read_h5ad`` does.

        Raises
        ------
        HostileFileError, NotCountsError
            It is damaged, or a matrix holds no numbers.
        """
        from ingest.stream.whole import in_memory

        return in_memory(self.opened)

    def close(self) -> None:
        """Close the file; the handle opens it again when it is asked again. Twice does no harm."""
        if self._pid == os.getpid():
            if self._backed is not None and self._backed.isbacked:
                self._backed.file.close()
            if self._opened is not None:
                self._opened.close()
        self._opened = self._backed = None

    def _file(self) -> tuple[int, int] | None:
        """Return what stays the same while a file is changed in place, and differs from one that took its place."""
        if self.is_remote:
            return None
        stat = Path(self._address).stat()
        return stat.st_dev, stat.st_ino

    def _is_current(self, opened: OpenH5ad) -> bool:
        from ingest.fetch.h5ad_open import file_version

        if self.is_remote:
            return True
        try:
            return file_version(self._address) == opened.source.version
        except IngestError:
            return False  # gone: opening it says so

    def __enter__(self) -> AnnData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> tuple[str, Mode]:
        return self._address, self._mode

    def __setstate__(self, state: tuple[str, Mode]) -> None:
        self._restore(*state)

    def __fspath__(self) -> str:
        return self._address

    def __str__(self) -> str:
        return self._address

    def __getitem__(self, index: Any) -> anndata.AnnData:
        return self.backed[index]

    def __len__(self) -> int:
        return self.n_obs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # such as what pickle and copy ask of an object not yet filled
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.backed, name)

    def __repr__(self) -> str:
        try:
            n_obs, n_vars = self.shape
            what = f"{n_obs:,} cells x {n_vars:,} genes, X {get_matrix_storage_format(self)}"
        except IngestError as error:
            what = str(error)
        return f"AnnData({self._address!r}, mode={self._mode!r}): {what}"


def read_backed(path: Any) -> anndata.AnnData:
    """Return a file as anndata backed by it, mode ``r``; of a remote one X is read by ranges.

    Raises
    ------
    NoFileError
        A FileNotFoundError: there is no such file.
    HostileFileError, NotCountsError
        It is damaged.
    ConfigError, CredentialsError, TransientError
        It cannot be reached.
    """
    from ingest.stream.whole import backed_by

    opened = open_data(path)
    try:
        cells = backed_by(opened)
    except BaseException:
        opened.close()
        raise
    if cells.isbacked:
        opened.close()
    else:
        # As long as anything reads X: an open file over Python's own bytes must be closed before Python ends.
        matrix = cells.X
        weakref.finalize(getattr(matrix, "group", matrix), opened.close)
    return cells


def read_h5ad_ondisk(path: Any, *, n_obs: int = 5, n_vars: int = 5) -> AnnData:
    """Print what a file holds, and the corner of its tables and of X; return a handle on it.

    Parameters
    ----------
    path
        Path or URL.
    n_obs, n_vars
        Cells and genes of the corner; nothing else of tables and X is read.

    Raises
    ------
    NoFileError
        A FileNotFoundError: there is no such file.
    HostileFileError
        It is damaged.
    ValueError
        A negative number of cells or genes.
    """
    from ingest.stream.preview import preview

    if min(n_obs, n_vars) < 0:
        raise ValueError(f"{min(n_obs, n_vars)} cells or genes cannot be shown")
    handle = AnnData(path)
    sys.stdout.write(preview(handle.opened, n_obs, n_vars) + "\n")
    return handle
