"""Rows of an h5ad file, local or remote: stored entries of raw.X or X as they are, and what obs, var and obsp say.

CSR entries are copied; CSC is transposed, and of a dense matrix what is not zero is taken: both as the same matrix
would have been written as CSR.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.cpu import available_cpus
from ingest.errors import IngestError, NoFileError, NoMatrixError, SourceError
from ingest.fetch.h5ad_frame import read_frame
from ingest.fetch.h5ad_matrix import describe_matrix
from ingest.fetch.h5ad_open import open_h5ad
from ingest.load.memmap.convert.h5ad_csc import CscRows
from ingest.load.memmap.convert.h5ad_csr import CsrRows
from ingest.load.memmap.convert.h5ad_dense import DenseRows
from ingest.load.memmap.convert.h5ad_features import features_of, has_same_ids
from ingest.load.memmap.convert.h5ad_matrix import Reading
from ingest.load.memmap.convert.h5ad_neighbors import read_neighbors
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.load.memmap.convert.base import Place, Written
    from ingest.load.memmap.convert.h5ad_matrix import Arrays, MatrixRows

__all__ = ["H5adRows"]

Array = np.ndarray[Any, Any]

_MOST_THREADS = 4
_MEMORY_BYTES = 1 << 30
_HELD_SHARE = 4
"""A remote file is fetched whole where it takes this part of the memory at most."""
_KINDS: dict[str, Callable[[Reading, Any], MatrixRows]] = {"csr": CsrRows, "csc": CscRows, "dense": DenseRows}


class H5adRows:
    """One open h5ad file as a source of rows; see `ingest.load.memmap.convert.base.RowSource`.

    Nothing is asked of values: unsorted, double, zero, negative and fractional ones are taken as they are stored.

    Parameters
    ----------
    source
        Path, URL, or either at one version.
    use_X_not_raw
        X, not raw.X.
    label
        What rows are said to be of; the source as it is given.
    threads
        That read at once; None: one a CPU, up to four.
    memory_bytes
        For what is decoded at once and for rows that are transposed: there is less of it than this, but for row
        numbers of 8 bytes a row, and chunks of HDF5 that are larger.

    Raises
    ------
    NoFileError
        There is no such file.
    NoMatrixError
        It has no raw.X, or no X.
    SourceChangedError
        It is not the version that `source` names.
    HostileFileError, NotCountsError
        It breaks a rule of structure; its values are no numbers.
    ConfigError, TransientError
        It cannot be reached.
    """

    def __init__(
        self,
        source: Source | str | os.PathLike[str],
        *,
        use_X_not_raw: bool = False,  # noqa: N803 # bionemo-scdl's name
        label: str | None = None,
        threads: int | None = None,
        memory_bytes: int = _MEMORY_BYTES,
    ) -> None:
        self.label = label if label is not None else source.address if isinstance(source, Source) else os.fspath(source)
        self._file = _open(source)
        try:
            n_threads = threads or min(available_cpus(), _MOST_THREADS)
            self._reading = Reading(self._file, n_threads, memory_bytes)
            self._matrix = describe_matrix(self._file, _matrix_path(self._file, use_x=use_X_not_raw))
            self._rows = _KINDS[self._matrix.layout](self._reading, self._matrix)
        except BaseException:
            self._file.close()
            raise
        self._may_hold = self._file.size_bytes * _HELD_SHARE <= memory_bytes

    @property
    def version(self) -> str:
        """What pins the file: its size and time of modification, ETag or generation."""
        return self._file.source.version

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self._file.size_bytes

    @property
    def dtype(self) -> str:
        """Numpy name of the stored values' type."""
        return self._matrix.dtype

    @property
    def is_cuttable(self) -> bool:
        """Whether some rows are read in less time than all: not those of a CSC matrix."""
        return self._matrix.layout != "csc"

    @property
    def pair_keys(self) -> tuple[str, ...]:
        """What obsp holds."""
        return tuple(self._file.get("obsp") or ())

    @property
    def n_rows(self) -> int:
        """Cells."""
        return self._matrix.shape[0]

    @property
    def n_columns(self) -> int:
        """Genes."""
        return self._matrix.shape[1]

    @property
    def n_entries(self) -> int:
        """Stored entries; of a dense matrix those that are not zero, for which all of it is read once."""
        return self._rows.n_entries

    def entries_before(self, rows: Array) -> Array:
        """Return how many stored entries stand before each of `rows`, int64, ascending up to `n_rows`.

        Raises
        ------
        IngestError
            As `write`: of CSC and dense matrices all is read, once.
        """
        return self._rows.entries_before(np.asarray(rows, np.int64))

    def write(
        self, place: Place, into: Arrays, *, tolerance: float = 1e-8, reached: Callable[[int], None] | None = None
    ) -> Written:
        """Write values, columns and row ends of some rows, cast to the types of `into`.

        Parameters
        ----------
        tolerance
            As numpy's ``allclose`` with ``rtol=0`` has it: what is off by more is reported, the worst of it.
        reached
            Is told now and then how many of the rows are written.

        Raises
        ------
        HostileFileError
            ``index-range``, ``unreadable``, ``truncated``: the file is damaged.
        SourceChangedError
            The file is another one than it was: what has been written is worthless.
        SourceError, TransientError, ConfigError
            It cannot be read; the disk is full.
        """
        if self._file.is_remote and self._may_hold and place.n_rows * _HELD_SHARE >= self.n_rows:
            self._file.hold()
        try:
            written = self._rows.write(place, into, tolerance=tolerance, reached=reached or _ignore)
            self._file.check_unchanged()
        except IngestError as error:
            error.source = error.source or str(self._file.source)
            raise
        return written

    def var_features(self, index_name: str = "var_feature_id") -> pa.Table:
        """Return var's columns, its index as `index_name` where it has none.

        Of raw.X, var's columns too where it names the same genes in the same order as raw.var, as bionemo-scdl has it;
        otherwise raw.var's.

        Raises
        ------
        HostileFileError
            It is damaged.
        """
        frame = read_frame(self._file, "var")
        if self._matrix.var_path != "var" and not has_same_ids(self._file, self._matrix.var_path, frame):
            frame = read_frame(self._file, self._matrix.var_path)
        return features_of(frame, index_name)

    def obs_features(self, index_name: str = "obs_feature_id") -> pa.Table:
        """Return obs' columns, its index as `index_name` where it has none.

        Raises
        ------
        HostileFileError
            It is damaged.
        """
        return features_of(read_frame(self._file, "obs"), index_name)

    def neighbors(self, key: str) -> tuple[Array, Array, Array] | None:
        """Return ``obsp[key]`` as row pointers (uint64), cells (uint32) and weights (float32); None where it is not.

        Raises
        ------
        NoMatrixError
            ``not-sparse``.
        HostileFileError
            It breaks a rule of structure.
        """
        return read_neighbors(self._reading, key)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open(source: Source | str | os.PathLike[str]) -> OpenH5ad:
    try:
        return open_h5ad(source if isinstance(source, Source) else os.fspath(source))
    except SourceError as error:
        if error.kind != "no-such-file":
            raise
        where = source.path or source.address if isinstance(source, Source) else source
        raise NoFileError(f"Error: could not find h5ad path {where}", source=error.source) from error


def _matrix_path(file: OpenH5ad, *, use_x: bool) -> str:
    for path in ("X",) if use_x else ("raw/X", "raw.X"):
        if file.get(path) is not None:
            return path
    kind, other, counts = ("", False, "raw") if use_x else ("raw ", True, "normalized")
    raise NoMatrixError(
        f"This file does not have {kind}count data; set use_X_not_raw={other} to use {counts} counts instead.",
        source=str(file.source),
    )


def _ignore(_: int) -> None:
    pass
