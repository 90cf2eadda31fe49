"""An archive in the making: arrays of known size, written in parts by whoever has one, and put in place at the end.

Nothing is called by the archive's name before all of it is on the disk: it is made in a folder beside it, which one
rename makes the archive.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from ingest.errors import ConfigError, DiskFullError
from ingest.load.memmap.dtypes import check_data_dtype, smallest_uint_dtype
from ingest.load.memmap.header import ArrayInfo, FeatureIndexInfo, SCDLHeader
from ingest.load.memmap.names import VERSION, ArrayDType, FileNames

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ArchiveSpec",
    "ArrayFiles",
    "Features",
    "Staging",
    "describe",
    "header_of",
    "sync_directory",
    "sync_folder",
    "write_metadata",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class ArchiveSpec:
    """Sizes and types of the three arrays.

    Raises
    ------
    ValueError
        There is nothing to store, or a type that values may not have.
    """

    n_rows: int
    n_entries: int
    data: str
    """Numpy name of the values' type, of `INT_ORDER` or `FLOAT_ORDER`."""
    columns: str
    """Of the columns': unsigned."""
    rows: str
    """Of the row pointers': unsigned."""

    def __post_init__(self) -> None:
        check_data_dtype(self.data)
        if self.n_entries <= 0:
            raise ValueError(f"n_elements is set to {self.n_entries}. It must be positive to create CSR matrices.")
        if self.n_rows <= 0:
            raise ValueError(f"num_rows is set to {self.n_rows}. It must be positive to create CSR matrices.")

    @classmethod
    def smallest(cls, n_rows: int, n_entries: int, n_columns: int, data: str) -> ArchiveSpec:
        """Return the one whose columns and row pointers are as narrow as they can be."""
        return cls(n_rows, n_entries, data, smallest_uint_dtype(n_columns - 1), smallest_uint_dtype(n_entries))

    @property
    def arrays(self) -> dict[FileNames, tuple[str, int]]:
        """Type and length of each array, in the order of the header."""
        return {
            FileNames.DATA: (self.data, self.n_entries),
            FileNames.ROWPTR: (self.rows, self.n_rows + 1),
            FileNames.COLPTR: (self.columns, self.n_entries),
        }

    @property
    def n_bytes(self) -> int:
        """Bytes of the three arrays."""
        return sum(np.dtype(dtype).itemsize * length for dtype, length in self.arrays.values())


class Features(Protocol):
    """What an archive needs of a feature index, of var or obs."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        ...

    def number_of_rows(self) -> int:
        """Return the number of rows."""
        ...

    def save(self, datapath: str) -> None:
        """Write it into a folder."""
        ...


class ArrayFiles:
    """The three arrays of one archive, for writing parts of them at their places; a context manager.

    Several threads and processes may write at once, each its own part. Values and columns are cast as numpy casts:
    whoever has them has checked that they fit.

    Parameters
    ----------
    folder, spec
        Where the arrays are, and what they are.
    """

    def __init__(self, folder: Path, spec: ArchiveSpec) -> None:
        self.folder, self.spec = folder, spec
        self._files: dict[FileNames, int] = {}
        try:
            for name in spec.arrays:
                self._files[name] = os.open(folder / name.value, os.O_RDWR)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path, spec: ArchiveSpec) -> ArrayFiles:
        """Make the arrays, all zero, or open those that are there: the first row pointer needs no writing.

        Raises
        ------
        ConfigError
            The disk has no room for them (kind ``disk-full``).
        """
        with disk_full(folder):
            for name, (dtype, length) in spec.arrays.items():
                with (folder / name.value).open("ab") as file:
                    os.truncate(file.fileno(), length * np.dtype(dtype).itemsize)
        return cls(folder, spec)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_values(self, at: int, values: Array) -> None:
        """Write values, ``(n,)`` of whatever type, from entry `at` on."""
        self._write(FileNames.DATA, at, values)

    def write_columns(self, at: int, columns: Array) -> None:
        """Write columns, ``(n,)``, from entry `at` on."""
        self._write(FileNames.COLPTR, at, columns)

    def write_row_ends(self, at: int, ends: Array) -> None:
        """Write where rows end in the archive, ``(n,)``, of the rows from `at` on."""
        self._write(FileNames.ROWPTR, at + 1, ends)

    def sync(self) -> None:
        """Return when all that has been written is on the disk.

        Raises
        ------
        ConfigError
            ``disk-full``.
        """
        with disk_full(self.folder):
            for file in self._files.values():
                os.fdatasync(file)

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _write(self, name: FileNames, at: int, values: Array) -> None:
        dtype, length = self.spec.arrays[name]
        if at < 0 or at + len(values) > length:
            raise ValueError(f"{name.value} has {length:,} places, [{at:,}, {at + len(values):,}) are not all of them")
        if not len(values):
            return
        cast = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
        left, place = cast.data.cast("B"), at * cast.itemsize
        with disk_full(self.folder):
            while left:
                written = os.pwrite(self._files[name], left, place)
                left, place = left[written:], place + written


class Staging:
    """The folder beside an archive in which it is made: ``.partial``, which a later run finds again.

    Parameters
    ----------
    path
        Of the archive to be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.folder = self.path.with_name(f"{self.path.name}.partial")

    def make(self) -> Path:
        """Make the folder, or find it."""
        with disk_full(self.path.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def commit(self) -> None:
        """Bring all of it to the disk, then call it by its name.

        Raises
        ------
        ConfigError
            ``disk-full``, or there is an archive, or anything else, by that name (kind ``exists``).
        """
        with disk_full(self.folder):
            sync_folder(self.folder)
        try:
            self.folder.rename(self.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise ConfigError(f"{self.path} is there already", kind="exists", hint="name another place") from error
        sync_directory(self.path.parent)

    def discard(self) -> None:
        """Remove the folder with what is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def disk_full(where: Path) -> Iterator[None]:
    """Say in one line that a disk is full.

    Raises
    ------
    ConfigError
        It is (kind ``disk-full``).
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskFullError(
            f"no space left for {where} ({error.strerror})",
            hint="make room and run it again, or write to another disk",
        ) from error


def header_of(spec: ArchiveSpec, var: Features, obs: Features) -> SCDLHeader:
    """Return the header of an archive."""
    arrays = tuple(
        ArrayInfo(name.name, length, ArrayDType.from_numpy_dtype(dtype))
        for name, (dtype, length) in spec.arrays.items()
    )
    named = ((FileNames.VAR_FEATURES.value, var), (FileNames.OBS_FEATURES.value, obs))
    return SCDLHeader(arrays, tuple(_features_info(name, index) for name, index in named))


def _features_info(name: str, index: Features) -> FeatureIndexInfo:
    digits = len(str(len(index)))
    frames = [f"dataframe_{number:0{digits}d}.parquet" for number in range(len(index))]
    files = ["cumulative_sum_index.npy", "labels.npy", "version.npy", *frames]
    return FeatureIndexInfo(name, index.number_of_rows(), index_files=tuple(f"{name}/{file}" for file in files))


def describe(folder: Path, spec: ArchiveSpec, var: Features, obs: Features) -> None:
    """Write all of an archive but its arrays, ``metadata.json`` last."""
    with disk_full(folder):
        var.save(str(folder / FileNames.VAR_FEATURES.value))
        obs.save(str(folder / FileNames.OBS_FEATURES.value))
        (folder / FileNames.VERSION.value).write_text(json.dumps(VERSION))
        header_of(spec, var, obs).save(folder / FileNames.HEADER.value)
        write_metadata(folder, {"num_rows": spec.n_rows})


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write ``metadata.json``, all of it at once: what has none is no archive."""
    part = folder / f".{FileNames.METADATA.value}"
    with part.open("w") as file:
        json.dump(metadata, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(folder / FileNames.METADATA.value)


def sync_folder(folder: Path) -> None:
    """Return when all files below a folder are on the disk."""
    for path, _, files in os.walk(folder):
        for name in files:
            with (Path(path) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(path))


def sync_directory(folder: Path) -> None:
    """Return when the names in a folder are on the disk."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
