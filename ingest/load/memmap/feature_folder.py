"""A folder of features as bionemo-scdl has it, read without trust and written beside its place.

::

    dataframe_<i>.parquet       block i, its number padded to the width of the number of blocks
    cumulative_sum_index.npy    -1, then how many rows there are after each block
    labels.npy                  a text for each block
    version.npy                 of the library
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ingest.errors import ConflictError
from ingest.load.memmap.archive import disk_full, sync_folder
from ingest.load.memmap.feature_frames import Frame, damaged
from ingest.load.memmap.feature_labels import read_labels, read_npy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.memmap.feature_pieces import Array

__all__ = ["Folder", "SavedBlock", "load_folder", "save_folder"]

_ENDS, _LABELS, _VERSION = "cumulative_sum_index.npy", "labels.npy", "version.npy"
_AT_FDCWD, _EXCHANGE = -100, 2


class SavedBlock(Protocol):
    """What can be written as a Parquet file."""

    def save(self, path: Path) -> Frame | None:
        """Write a new file, or return the one that holds just this."""
        ...

    def moved(self, old: Path, frame: Frame) -> None:
        """Read from `frame` what was to be read from files of the folder `old`."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """What is in a folder of features."""

    frames: tuple[Frame, ...]
    ends: tuple[int, ...]
    """Rows up to and with each block."""
    labels: tuple[str | None, ...]
    version: str


def load_folder(datapath: str | os.PathLike[str], *, rows_are_cells: bool) -> Folder:
    """Read all of a folder but the columns.

    Parameters
    ----------
    rows_are_cells
        Each file has as many rows as its block: obs.

    Raises
    ------
    FileNotFoundError
        There are no features.
    CorruptError
        A file is missing, damaged, or does not belong to the others (kind ``scdl-features``).
    """
    folder = _found(Path(datapath).resolve())
    if not (folder / _ENDS).exists() and not any(folder.glob("*.parquet")):
        raise FileNotFoundError(errno.ENOENT, "no features are saved here", str(datapath))
    ends = _read_ends(folder / _ENDS)
    frames = tuple(Frame.open(path) for path in _paths(folder, len(ends)))
    if rows_are_cells:
        for frame, n_rows in zip(frames, np.diff([0, *ends]).tolist(), strict=True):
            if frame.n_rows != n_rows:
                raise damaged(frame.path, f"has {frame.n_rows:,} rows, {_ENDS} says {n_rows:,}")
    labels = read_labels(folder / _LABELS, len(ends))
    version = read_npy(folder / _VERSION)
    if version.dtype.kind != "U" or version.shape != ():
        raise damaged(folder / _VERSION, "holds no version")
    return Folder(frames, ends, labels, str(version))


def save_folder(
    datapath: str | os.PathLike[str],
    blocks: Sequence[SavedBlock],
    ends: Array,
    labels: Sequence[str | None],
    version: str,
) -> None:
    """Write a folder of features in place of whatever features are there.

    It is written beside its place and exchanged for it, so that either the old or the new one is there, whole, at any
    time. Blocks that are a file of the same archive already are linked. What blocks were to read from the old folder,
    they read from the new one then.

    Raises
    ------
    ConfigError
        A column is of no type that Parquet has (kind ``feature-type``), or the disk is full (``disk-full``).
    ConflictError
        The folder holds something else, too (kind ``not-features``).
    """
    target = Path(datapath).resolve()
    _check_ours(target)
    beside = target.with_name(f"{target.name}.partial")
    with disk_full(target):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            paths = _paths(beside, len(blocks))
            for block, path in zip(blocks, paths, strict=True):
                frame = block.save(path)
                if frame is not None:
                    _take_over(frame, path, own=frame.path.parent.parent == target.parent)
            np.save(beside / _ENDS, ends)
            np.save(beside / _LABELS, np.array(["" if label is None else str(label) for label in labels]))
            np.save(beside / _VERSION, np.array(version))
            sync_folder(beside)
            _exchange(beside, target)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        _sync(target.parent)
    for block, path in zip(blocks, paths, strict=True):
        block.moved(target, Frame.open(target / path.name))


def _paths(folder: Path, n: int) -> list[Path]:
    digits = len(str(n))
    return [folder / f"dataframe_{number:0{digits}d}.parquet" for number in range(n)]


def _check_ours(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ConflictError(f"{target} is a file", kind="not-features", hint="name a folder")
    for path in target.iterdir() if target.exists() else ():
        ours = path.name in (_ENDS, _LABELS, _VERSION) or path.match("dataframe_*.parquet")
        if not ours:
            raise ConflictError(
                f"{target} holds {path.name}, which is none of the features saved there",
                kind="not-features",
                hint="save features into a folder of their own",
            )


def _take_over(frame: Frame, path: Path, *, own: bool) -> None:
    """Have the same file by another name: linked from the archive's own, copied from another, which lives on."""
    if own:
        try:
            path.hardlink_to(frame.path)
        except OSError:  # a file system without links
            pass
        else:
            return
    shutil.copy2(frame.path, path)


def _exchange(beside: Path, target: Path) -> None:
    """Call the folder `beside` by the name of `target`, and remove what was called so."""
    previous = _previous(target)
    if not target.exists():
        beside.rename(target)
    elif _swapped(beside, target):
        shutil.rmtree(beside)
    else:
        shutil.rmtree(previous, ignore_errors=True)
        target.rename(previous)
        beside.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def _swapped(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the system has none for that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _previous(target: Path) -> Path:
    return target.with_name(f"{target.name}.previous")


def _found(target: Path) -> Path:
    """Return the folder; where it was being replaced in two steps, and the second was not made, what it was."""
    previous = _previous(target)
    return previous if previous.exists() and not target.exists() else target


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _read_ends(path: Path) -> tuple[int, ...]:
    found = read_npy(path)
    if found.ndim != 1 or found.dtype.kind != "i" or not len(found) or found[0] != -1:
        raise damaged(path, "does not begin with -1")
    rows = [0, *found[1:].tolist()]
    if min(np.diff(rows), default=0) < 0:
        raise damaged(path, "does not ascend")
    return tuple(rows[1:])
