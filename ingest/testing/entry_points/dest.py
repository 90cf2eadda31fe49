"""Everything that opens a DEST in a folder, in which somebody may have changed any file."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.collecting import find_garbage
from ingest.load.dataset import open_chunks
from ingest.load.hvgs import chosen_hvgs
from ingest.opened import open_plan
from ingest.status import dataset_status
from ingest.store.open import open_store
from ingest.testing.entry_points.base import EntryPoint, command
from ingest.verifying import verify_dataset

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEST"]


def _status(path: Path, _: Path) -> Any:
    found = dataset_status(open_plan(open_store(str(path))))
    return found.complete, found.n_done, found.missing, found.lost, len(found.runs), len(found.unreadable)


def _verify(path: Path, _: Path) -> Any:
    report = verify_dataset(open_plan(open_store(str(path))), threads=1)
    return sorted((str(finding.chunk), finding.kind, str(finding.key)) for finding in report.findings), report.exit_code


def _verify_deep(path: Path, _: Path) -> Any:
    report = verify_dataset(open_plan(open_store(str(path))), threads=1, deep=True)
    return sorted((str(finding.chunk), finding.kind, str(finding.key)) for finding in report.findings), report.exit_code


def _load(path: Path, scratch: Path) -> Any:
    """Read all that a loader reads: counts, obs, names, what was measured."""
    with open_chunks(path, threads=1, cache_dir=str(scratch), allow_incomplete=True) as cells:
        rows = np.arange(cells.n_cells)
        counts = cells.counts(rows)
        if counts.nnz and not (counts.indices.min() >= 0 and counts.indices.max() < counts.n_genes):
            raise RuntimeError("counts of genes that there are not")
        dense = np.zeros((counts.n_cells, counts.n_genes))
        dense[np.repeat(rows, np.diff(counts.indptr)), counts.indices] = counts.data
        obs = cells.obs.table(rows)
        return dense, obs, cells.cell_ids(rows), cells.genes.ids, cells.genes.names, cells.measured(rows)


def _hvgs(path: Path, scratch: Path) -> Any:
    with open_chunks(path, threads=1, cache_dir=str(scratch), allow_incomplete=True) as cells:
        return chosen_hvgs(cells)


def _hvg(path: Path, scratch: Path) -> Any:
    return command(
        "hvg", str(path), "--n-hvgs", "5", "--pool", "serial", "--output-dir", str(scratch / "out"), "--json"
    )[-400:]


def _qc(path: Path, scratch: Path) -> Any:
    out = str(scratch / "out")
    command("qc", str(path), "--min-genes", "2", "--pool", "serial", "--output-dir", out)
    return sorted(file.name for file in (scratch / "out").iterdir())


def _gc(path: Path, _: Path) -> Any:
    garbage = find_garbage(open_plan(open_store(str(path))), grace_s=0)
    return [(candidate.key, candidate.why) for candidate in garbage.candidates], len(garbage.open_runs)


def _memmap(path: Path, scratch: Path) -> Any:
    command("memmap", str(path), "-o", str(scratch / "archive"), "--pool", "serial")
    return sorted((file.name, file.stat().st_size) for file in (scratch / "archive").iterdir() if file.is_file())


def _resume(path: Path, scratch: Path) -> Any:
    """Go on with a copy: what is missing is made, summaries are written again."""
    copy = scratch / "copy"
    shutil.copytree(path, copy)
    command("run", str(copy), "--pool", "serial", "-d", "1")
    return sorted(file.name for file in (copy / "chunks").iterdir())


DEST: tuple[EntryPoint, ...] = (
    EntryPoint("status", _status),
    EntryPoint("verify", _verify),
    EntryPoint("verify --deep", _verify_deep),
    EntryPoint("load", _load),
    EntryPoint("chosen hvgs", _hvgs),
    EntryPoint("gc", _gc),
    EntryPoint("hvg", _hvg),
    EntryPoint("qc", _qc),
    EntryPoint("memmap", _memmap),
    EntryPoint("run", _resume),
)
