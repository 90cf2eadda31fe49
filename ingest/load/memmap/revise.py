"""Change an archive in place, so that whatever breaks it off is undone, or done, when it is next opened.

Whoever changes it, or undoes what was broken off, holds a lock on the folder. A journal beside the arrays says what
they were. Arrays that only grow are appended to; those whose type changes are
written anew under another name; new descriptions are written beside the old ones. When all of that is on the disk the
journal is marked: before, opening cuts the arrays back; after, it puts the new files in place. Meanwhile there is no
``metadata.json``, so that nobody takes for an archive what is none.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConflictError, CorruptError
from ingest.load.memmap.archive import disk_full, header_of, sync_directory, sync_folder, write_metadata
from ingest.load.memmap.header import SCDLHeader
from ingest.load.memmap.names import FileNames
from ingest.load.memmap.neighbors import NEIGHBOR_DTYPES, has_neighbor_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.load.memmap.archive import ArchiveSpec, Features

__all__ = ["Piece", "changing", "check_unchanged", "is_being_revised", "recover", "revise"]

Array = np.ndarray[Any, Any]

_JOURNAL = "revision.json"
_NEW = ".new"


@dataclass(frozen=True, slots=True)
class Piece:
    """An archive that is appended to another."""

    folder: Path
    spec: ArchiveSpec


def revise(
    folder: Path,
    old: ArchiveSpec,
    new: ArchiveSpec,
    pieces: Sequence[Piece],
    features: tuple[Features, Features],
    metadata: dict[str, Any],
    *,
    piece_entries: int,
) -> None:
    """Turn the archive in `folder` from `old` into `new`, which has the pieces' rows after its own.

    Parameters
    ----------
    features
        Of var and obs, of all rows.
    metadata
        What the archive's says then.
    piece_entries
        Entries copied at once.

    Raises
    ------
    ConfigError
        The disk is full (kind ``disk-full``): the archive is as it was.
    ConflictError
        It has been changed since it was opened (kind ``changed``), or somebody is changing it (``at-work``).
    CorruptError
        A piece is shorter than its rows say.
    """
    with changing(folder):
        for piece in (Piece(folder, old), *pieces):
            check_unchanged(piece.folder, piece.spec)
            if pieces:
                _check_whole(piece)
        _revise(folder, old, new, pieces, features, metadata, piece_entries)


def _revise(
    folder: Path,
    old: ArchiveSpec,
    new: ArchiveSpec,
    pieces: Sequence[Piece],
    features: tuple[Features, Features],
    metadata: dict[str, Any],
    piece_entries: int,
) -> None:
    _begin(folder, old)
    try:
        with disk_full(folder):
            _write_arrays(folder, old, new, pieces, piece_entries)
            _write_neighbors(folder, old, pieces, piece_entries)
            var, obs = features
            for name, index in ((FileNames.VAR_FEATURES, var), (FileNames.OBS_FEATURES, obs)):
                index.save(str(folder / f"{name.value}{_NEW}"))
            header_of(new, var, obs).save(folder / f"{FileNames.HEADER.value}{_NEW}")
            sync_folder(folder)
            _write_journal(folder, {**_journal(folder), "ready": True, "new_metadata": metadata})
    except BaseException:
        _settle(folder)
        raise
    _settle(folder)


def is_being_revised(folder: Path) -> bool:
    """Return whether a change has begun that has not been ended or undone."""
    return (folder / _JOURNAL).exists()


def recover(folder: Path) -> bool:
    """Undo a revision that was broken off, or end it where all of it was written; return whether there was one.

    Raises
    ------
    ConflictError
        It is not broken off: somebody is at it (kind ``at-work``).
    CorruptError
        The journal cannot be read (kind ``scdl-journal``).
    """
    if not is_being_revised(folder):
        return False
    with changing(folder):
        return _settle(folder)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Be the only one who changes an archive.

    Raises
    ------
    ConflictError
        Somebody else does (kind ``at-work``).
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                said = f"{folder} is being changed by somebody else"
                raise ConflictError(said, kind="at-work", hint="wait until that has ended") from error
            # A file system without locks: whoever shares it takes care.
        yield
    finally:
        os.close(handle)  # which frees it, as the process's end does


def check_unchanged(folder: Path, spec: ArchiveSpec) -> None:
    """Check that the arrays on the disk are those that were opened.

    Raises
    ------
    ConflictError
        They are not (kind ``changed``).
    """
    sizes = {name: np.dtype(dtype).itemsize * length for name, (dtype, length) in spec.arrays.items()}
    same = all((folder / name.value).stat().st_size == size for name, size in sizes.items())
    path = folder / FileNames.HEADER.value
    if same and path.exists():
        said = {array.name: array.dtype.numpy_dtype_string for array in SCDLHeader.load(path).arrays}
        same = all(said.get(name.name, dtype) == dtype for name, (dtype, _) in spec.arrays.items())
    if not same:
        raise ConflictError(
            f"{folder} has been changed since it was opened", kind="changed", hint="open it again, then change it"
        )


def _check_whole(piece: Piece) -> None:
    """Check that rows end where entries do: what stands after them would become somebody else's."""
    path, (dtype, length) = piece.folder / FileNames.ROWPTR.value, piece.spec.arrays[FileNames.ROWPTR]
    [last] = _parts(path, dtype, length - 1, length, 1)
    if int(last[0]) != piece.spec.n_entries:
        raise CorruptError(
            f"{piece.folder} has {piece.spec.n_entries:,} entries, its rows end at {int(last[0]):,}",
            kind="scdl-array",
            hint="one that is filled by hand is made with as many elements as its rows have",
        )


def _settle(folder: Path) -> bool:
    """End or undo a revision, under the lock."""
    if not is_being_revised(folder):
        return False
    journal = _journal(folder)
    if journal.get("ready"):
        for path in sorted(folder.glob(f"*{_NEW}")):
            place = path.with_name(path.name.removesuffix(_NEW))
            if place.is_dir():
                shutil.rmtree(place)
            path.rename(place)
        write_metadata(folder, journal["new_metadata"])
    else:
        for path in folder.glob(f"*{_NEW}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, size in journal["sizes"].items():
            os.truncate(folder / name, size)
        write_metadata(folder, journal["metadata"])
    sync_directory(folder)  # before nobody knows any more what there was to do
    (folder / _JOURNAL).unlink()
    return True


def _begin(folder: Path, old: ArchiveSpec) -> None:
    sizes = {name.value: np.dtype(dtype).itemsize * length for name, (dtype, length) in old.arrays.items()}
    if has_neighbor_files(folder):
        sizes |= {name.value: (folder / name.value).stat().st_size for name in NEIGHBOR_DTYPES}
    path = folder / FileNames.METADATA.value
    metadata = json.loads(path.read_bytes()) if path.exists() else {}
    _write_journal(folder, {"sizes": sizes, "metadata": metadata})
    path.unlink(missing_ok=True)


def _journal(folder: Path) -> dict[str, Any]:
    try:
        found = dict(json.loads((folder / _JOURNAL).read_bytes()))
        sizes = {str(FileNames(name)): int(size) for name, size in found["sizes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"{folder / _JOURNAL} is damaged ({error}): the archive was being changed"
        raise CorruptError(said, kind="scdl-journal", hint="convert the archive again") from error
    return {**found, "sizes": sizes}


def _write_journal(folder: Path, journal: dict[str, Any]) -> None:
    part = folder / f".{_JOURNAL}"
    with part.open("w") as file:
        json.dump(journal, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(folder / _JOURNAL)
    sync_directory(folder)


def _write_arrays(
    folder: Path, old: ArchiveSpec, new: ArchiveSpec, pieces: Sequence[Piece], piece_entries: int
) -> None:
    owners = [Piece(folder, old), *pieces]
    before = np.cumsum([0, *(piece.spec.n_entries for piece in owners)], dtype=object)
    for name, (dtype, _) in new.arrays.items():
        anew = dtype != old.arrays[name][0]
        with (folder / f"{name.value}{_NEW}" if anew else folder / name.value).open("wb" if anew else "ab") as file:
            for number, piece in enumerate(owners):
                if number == 0 and not anew:
                    continue
                # Of row pointers the first of each but the first piece is the last of the one before.
                pointers = name is FileNames.ROWPTR
                parts = _read(piece, name, skip=int(pointers and number > 0), piece_entries=piece_entries)
                for part in parts:
                    cast = part.astype(dtype)
                    if pointers and number:
                        cast += np.dtype(dtype).type(before[number])
                    file.write(cast.data)


def _read(piece: Piece, name: FileNames, *, skip: int, piece_entries: int) -> Iterator[Array]:
    dtype, length = piece.spec.arrays[name]
    yield from _parts(piece.folder / name.value, dtype, skip, length, piece_entries)


def _parts(path: Path, dtype: str, skip: int, length: int, piece_entries: int) -> Iterator[Array]:
    """Yield what a file holds at ``[skip, length)``; what others append to it meanwhile is none of that."""
    size = np.dtype(dtype).itemsize
    with path.open("rb") as file:
        file.seek(skip * size)
        for at in range(skip, length, piece_entries):
            n = min(piece_entries, length - at)
            part = np.fromfile(file, dtype, n)
            if len(part) < n:
                said = f"{path} ends at entry {at + len(part):,} of {length:,}"
                raise CorruptError(said, kind="scdl-array", hint="convert it again")
            yield part


def _write_neighbors(folder: Path, old: ArchiveSpec, pieces: Sequence[Piece], piece_entries: int) -> None:
    """Append neighbours, whose numbers move with their cells; cells of archives without any have none."""
    owners = [Piece(folder, old), *pieces]
    has = [has_neighbor_files(piece.folder) for piece in owners]
    if not any(has) or len(owners) == 1:
        return
    # Written anew: who has had none so far gets them, too, and what was there is small beside the counts.
    files = {name: (folder / f"{name.value}{_NEW}").open("wb") for name in NEIGHBOR_DTYPES}
    try:
        rows = entries = 0
        files[FileNames.NEIGHBOR_INDICES_PTR].write(np.zeros(1, np.uint64).data)
        for piece, present in zip(owners, has, strict=True):
            n_rows, n_entries = piece.spec.n_rows, 0
            if present:
                n_entries = (piece.folder / FileNames.NEIGHBOR_INDICES.value).stat().st_size // 4
            for name, dtype in NEIGHBOR_DTYPES.items():
                moved = {FileNames.NEIGHBOR_INDICES_PTR: entries, FileNames.NEIGHBOR_INDICES: rows}.get(name, 0)
                skip = int(name is FileNames.NEIGHBOR_INDICES_PTR)
                if present:
                    length = n_rows + 1 if skip else n_entries
                    for part in _parts(piece.folder / name.value, dtype, skip, length, piece_entries):
                        files[name].write((part + np.dtype(dtype).type(moved)).data)
                elif skip:
                    files[name].write(np.full(n_rows, entries, np.uint64).data)
            rows, entries = rows + n_rows, entries + n_entries
    finally:
        for file in files.values():
            file.close()
