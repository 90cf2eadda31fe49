"""Shuffled batches out of an archive of any size, for so many seconds, in a process of its own.

``python -m benchmarks.memmap_epoch MODULE ARCHIVE SETTINGS SECONDS``: `MODULE` of this package has ``open_loader``, as
for `loading_child`, and the library's ``SingleCellMemMapDataset``. Some rows, drawn at random, are held against the
bytes of the archive afterwards. Prints ``measuring`` and ``measured``, and last its row as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.loading_child import cpu_seconds
from benchmarks.loading_matrix import n_rows
from benchmarks.loading_settings import LoadSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BareArchive", "main"]

_CHECKED = 200


class BareArchive:
    """An archive's entries as bytes: how wide they are follows from the sizes of the files.

    Not what ``metadata.json`` and the header say: of several files, bionemo-scdl leaves there what the first one had.

    Parameters
    ----------
    folder, n_rows
        The archive, and the rows that its library says it has.
    """

    def __init__(self, folder: Path, n_rows: int) -> None:
        self.n_rows = n_rows
        self._rows = _unsigned(folder / "row_ptr.npy", n_rows + 1)
        self._values, self._columns = (
            np.memmap(folder / name, np.uint8, "r").reshape(int(self._rows[-1]), -1)
            for name in ("data.npy", "col_ptr.npy")
        )

    def row(self, number: int) -> tuple[bytes, bytes]:
        """Return the bytes of a row's values and of its columns."""
        entries = slice(int(self._rows[number]), int(self._rows[number + 1]))
        return self._values[entries].tobytes(), self._columns[entries].tobytes()


def _unsigned(path: Path, length: int) -> Any:
    return np.memmap(path, f"<u{path.stat().st_size // length}", "r")


def main(module: str, archive: str, settings: str, seconds: str) -> int:
    """Measure, and print the row."""
    warnings.filterwarnings("ignore", "Sparse ", UserWarning)  # torch's, of its CSR tensors
    way = importlib.import_module(f"benchmarks.{module}")
    start = time.monotonic()
    batches = way.open_loader(archive, LoadSettings.parse(settings)).epoch(0)
    rows = n_rows(next(batches))
    first_batch_s = time.monotonic() - start
    print("measuring", flush=True)
    row = _measure(batches, rows, float(seconds))
    print("measured", flush=True)
    dataset = way.SingleCellMemMapDataset(archive)
    if row["whole"] and row["cells"] != len(dataset):
        raise ValueError(f"{row['cells']} cells came in a whole epoch of {len(dataset)}")
    checked = _check(dataset, BareArchive(Path(archive), len(dataset)))
    print(json.dumps({"first_batch_s": round(first_batch_s, 3), "checked": checked, **row}), flush=True)
    return 0


def _measure(batches: Iterator[Any], before: int, limit_s: float) -> dict[str, Any]:
    cpu, start, rows, whole = cpu_seconds(), time.monotonic(), 0, True
    for batch in batches:
        rows += n_rows(batch)
        if time.monotonic() - start > limit_s:
            whole = False
            break
    seconds, cpu = time.monotonic() - start, cpu_seconds() - cpu
    if not rows:
        raise ValueError("one batch is the whole epoch: nothing is left to be measured")
    return {
        "cells": before + rows,
        "whole": whole,
        "cells_per_s": round(rows / seconds, 1),
        "cells_per_cpu_s": round(rows / cpu, 1),
    }


def _check(dataset: Any, bare: BareArchive) -> int:
    """Hold rows against the bytes of the archive; return how many."""
    numbers = np.random.default_rng(0).integers(bare.n_rows, size=min(_CHECKED, bare.n_rows))
    for number in numbers.tolist():
        values, columns = dataset.get_row(number)[0]
        if (np.asarray(values).tobytes(), np.asarray(columns).tobytes()) != bare.row(number):
            raise ValueError(f"row {number} is not what the archive has")
    return len(numbers)


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # DataLoader workers in mid-epoch are not waited for
