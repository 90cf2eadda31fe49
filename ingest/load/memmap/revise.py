"""Change an archive in place, so that whatever breaks it off is undone, or done, when it is next opened.

A journal beside the arrays says what they were. Arrays that only grow are appended to; those whose type changes are
written anew under another name; new descriptions are written beside the old ones. When all of that is on the disk the
journal is marked: before, opening cuts the arrays back; after, it puts the new files in place. Meanwhile there is no
``metadata.json``, so that nobody takes for an archive what is none.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import CorruptError
from ingest.load.memmap.archive import disk_full, header_of, sync_directory, sync_folder, write_metadata
from ingest.load.memmap.names import FileNames
from ingest.load.memmap.neighbors import NEIGHBOR_DTYPES, has_neighbor_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.load.memmap.archive import ArchiveSpec, Features

__all__ = ["Piece", "recover", "revise"]

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
    """
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
        recover(folder)
        raise
    recover(folder)


def recover(folder: Path) -> bool:
    """Undo a revision that was broken off, or end it where all of it was written; return whether there was one.

    Raises
    ------
    CorruptError
        The journal cannot be read (kind ``scdl-journal``).
    """
    if not (folder / _JOURNAL).exists():
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
        for path in folder.glob(f"*{_NEW}"):
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
                    cast.tofile(file)


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
        np.zeros(1, np.uint64).tofile(files[FileNames.NEIGHBOR_INDICES_PTR])
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
                        (part + np.dtype(dtype).type(moved)).tofile(files[name])
                elif skip:
                    np.full(n_rows, entries, np.uint64).tofile(files[name])
            rows, entries = rows + n_rows, entries + n_entries
    finally:
        for file in files.values():
            file.close()
