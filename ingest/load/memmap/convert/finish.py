"""What is written once all parts are there: features, neighbours, header; all that an archive is beside its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import ConfigError, CorruptError
from ingest.load.memmap.archive import describe, disk_full
from ingest.load.memmap.convert.opening import open_facts
from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex
from ingest.load.memmap.names import FileNames
from ingest.load.memmap.neighbors import NEIGHBOR_DTYPES

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from ingest.load.memmap.convert.opening import DescribedRows, ReadOptions
    from ingest.load.memmap.convert.plan import ConversionPlan

__all__ = ["describe_archive"]

Array = np.ndarray[Any, Any]


def describe_archive(folder: Path, plan: ConversionPlan, options: ReadOptions) -> None:
    """Write into the folder of the arrays all else of the archive, ``metadata.json`` last.

    Like features of sources that follow each other become one block, as concatenation makes it.

    Raises
    ------
    ConfigError
        The disk is full (kind ``disk-full``).
    IngestError
        A source is damaged, has changed, or cannot be reached.
    """
    (folder / FileNames.METADATA.value).unlink(missing_ok=True)
    var, obs = VariableFeatureIndex(), ObservedFeatureIndex()
    neighbors = _Neighbors(folder, plan) if plan.neighbor_key is not None else None
    for source in plan.sources:
        rows = open_facts(source.facts, options)
        try:
            _append(var, obs, rows)
            if neighbors is not None:
                neighbors.append(rows)
        finally:
            rows.close()
    if neighbors is not None:
        neighbors.close()
    describe(folder, plan.spec, var, obs)


def _append(var: VariableFeatureIndex, obs: ObservedFeatureIndex, rows: DescribedRows) -> None:
    columns, cells = rows.var_features(), rows.obs_features()
    if isinstance(columns, pa.Table):
        var.append_table(rows.n_rows, columns, rows.label)
    else:
        var.append_features(rows.n_rows, columns, rows.label)
    n_before = obs.number_of_rows()
    if isinstance(cells, pa.Table):
        obs.append_table(cells, rows.label)
    else:
        obs.append_features(cells, rows.label)
    n_told = obs.number_of_rows() - n_before
    if n_told not in (0, rows.n_rows):
        raise CorruptError(f"{rows.label}: obs is of {n_told:,} rows, the matrix of {rows.n_rows:,}", kind="shape")


class _Neighbors:
    """Neighbours of all sources: cells of one have none in another, those without the key none at all."""

    def __init__(self, folder: Path, plan: ConversionPlan) -> None:
        if plan.spec.n_rows > np.iinfo(np.uint32).max:
            said = f"neighbours are numbered in 32 bits, which {plan.spec.n_rows:,} cells exceed"
            raise ConfigError(said, kind="too-many-cells", hint="leave --neighbors out")
        self._key, self._folder = plan.neighbor_key or "", folder
        self._files: dict[FileNames, BinaryIO] = {}
        self._row = self._entry = 0
        self._found = False
        with disk_full(folder):
            for name in NEIGHBOR_DTYPES:
                self._files[name] = (folder / name.value).open("wb")
        self._write(FileNames.NEIGHBOR_INDICES_PTR, np.zeros(1))

    def append(self, rows: DescribedRows) -> None:
        """Append those of one source."""
        found = rows.neighbors(self._key)
        if found is None:
            self._write(FileNames.NEIGHBOR_INDICES_PTR, np.full(rows.n_rows, self._entry))
        else:
            self._found = True
            indptr, indices, values = found
            self._write(FileNames.NEIGHBOR_INDICES_PTR, np.asarray(indptr[1:], np.int64) + self._entry)
            self._write(FileNames.NEIGHBOR_INDICES, np.asarray(indices, np.int64) + self._row)
            self._write(FileNames.NEIGHBOR_VALUES, values)
            self._entry += len(indices)
        self._row += rows.n_rows

    def close(self) -> None:
        """Close the files; they go where no source had any neighbours."""
        for file in self._files.values():
            file.close()
        if not self._found:
            for name in NEIGHBOR_DTYPES:
                (self._folder / name.value).unlink()

    def _write(self, name: FileNames, values: Array) -> None:
        with disk_full(self._folder):
            self._files[name].write(np.ascontiguousarray(values, NEIGHBOR_DTYPES[name]).data)
