"""Open an archive: what its header says, held against what its files are."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.errors import CorruptError
from ingest.load.memmap.archive import ArchiveSpec
from ingest.load.memmap.arrays import map_array
from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex
from ingest.load.memmap.header import HeaderSerializationError, SCDLHeader
from ingest.load.memmap.names import FileNames, Mode
from ingest.load.memmap.revise import is_being_revised, recover

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["OpenArchive", "open_archive"]

_OLDEST = {FileNames.DATA: "float32", FileNames.ROWPTR: "uint64", FileNames.COLPTR: "uint32"}
"""Types in archives that have no header: those of bionemo-scdl before 0.0.9."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenArchive:
    """What is in an archive."""

    spec: ArchiveSpec
    data: np.memmap[Any, Any]
    row_index: np.memmap[Any, Any]
    col_index: np.memmap[Any, Any]
    header: SCDLHeader | None
    metadata: dict[str, Any]
    var: VariableFeatureIndex
    obs: ObservedFeatureIndex


def open_archive(path: str | os.PathLike[str], mode: Mode, fallback: Mapping[FileNames, str] = _OLDEST) -> OpenArchive:
    """Open the archive at `path`; a change of it that was broken off is undone first.

    Parameters
    ----------
    fallback
        Types of arrays where no header says them.

    Raises
    ------
    FileNotFoundError
        It is not there, or not a finished archive.
    CorruptError
        Its files do not belong together, or a change was broken off that this user may not undo.
    ConflictError
        Somebody is changing it.
    """
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(
            f"Error: the specified data path to the mmap files {path} does not exist. Specify an updated filepath or "
            "provide an h5ad path to the dataset. The data can be loaded with SingleCellMemMapDataset.load_h5ad. "
            "Alternatively, the class can be instantiated with SingleCellMemMapDataset(<path to data that will be "
            "created>, h5ad_path=<path to h5ad file>)"
        )
    _settle(folder)
    header = _header(folder)
    if not (folder / FileNames.METADATA.value).exists():
        raise FileNotFoundError(f"Error: the metadata file {folder / FileNames.METADATA.value} does not exist.")
    metadata = _metadata(folder)
    dtypes = {**fallback, **_dtypes(header, folder)}
    arrays = {name: map_array(folder, name, dtypes[name], mode) for name in _OLDEST}
    data, row_index, col_index = (arrays[name] for name in (FileNames.DATA, FileNames.ROWPTR, FileNames.COLPTR))
    _check(folder, data, row_index, col_index)
    spec = ArchiveSpec(len(row_index) - 1, len(data), *(dtypes[n] for n in _IN_SPEC))
    var, obs = _features(folder)
    return OpenArchive(spec, data, row_index, col_index, header, metadata, var, obs)


def _settle(folder: Path) -> None:
    """End or undo a change that was broken off."""
    if os.access(folder, os.W_OK):
        recover(folder)
    elif is_being_revised(folder):
        raise CorruptError(
            f"{folder}: a change of it was broken off",
            kind="scdl-broken-off",
            hint="open it once as somebody who may write there: that undoes it",
        )


_IN_SPEC = (FileNames.DATA, FileNames.COLPTR, FileNames.ROWPTR)


def _header(folder: Path) -> SCDLHeader | None:
    path = folder / FileNames.HEADER.value
    if not path.exists():
        warnings.warn(f"SCDL header missing at {path}; continuing without header.", stacklevel=4)
        return None
    return SCDLHeader.load(path)  # one that cannot be read is not done without: types would be guessed


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / FileNames.METADATA.value
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path} is damaged ({error})", kind="scdl-metadata", hint="convert it again") from error


def _dtypes(header: SCDLHeader | None, folder: Path) -> dict[FileNames, str]:
    found = {}
    for array in header.arrays if header is not None else ():
        if array.name not in FileNames.__members__:
            raise HeaderSerializationError(f"{folder}: the header has an array {array.name!r}, which is none of SCDL's")
        found[FileNames[array.name]] = array.dtype.numpy_dtype_string
    return found


def _check(folder: Path, data: Any, row_index: Any, col_index: Any) -> None:
    if len(data) != len(col_index) or not len(row_index) or int(row_index[-1]) > len(data) or row_index[0]:
        raise CorruptError(
            f"{folder}: {len(data):,} values, {len(col_index):,} columns and rows that end at "
            f"{int(row_index[-1]) if len(row_index) else 0:,} do not belong together",
            kind="scdl-array",
            hint="convert it again: it was cut, or its header is of other arrays",
        )


def _features(folder: Path) -> tuple[VariableFeatureIndex, ObservedFeatureIndex]:
    var, obs = VariableFeatureIndex(), ObservedFeatureIndex()
    for name in (FileNames.VAR_FEATURES, FileNames.FEATURES):  # the second as older archives have it
        if (folder / name.value).exists():
            var = VariableFeatureIndex.load(str(folder / name.value))
            break
    if (folder / FileNames.OBS_FEATURES.value).exists():
        obs = ObservedFeatureIndex.load(str(folder / FileNames.OBS_FEATURES.value))
    return var, obs
