"""Small finished datasets, made the real way but in this process: for tests of what is done with a DEST afterwards."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ingest.cells import read_cells
from ingest.committing import commit_plan
from ingest.fetch.h5ad_open import file_version
from ingest.opened import open_plan
from ingest.preparing import divide_work, draft_dataset
from ingest.running import run_plan
from ingest.serial_pool import SerialPool
from ingest.settings import DataSettings, WorkSettings
from ingest.source import Source, address_of
from ingest.store.open import open_store
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ingest.driver import Observer
    from ingest.opened import OpenPlan
    from ingest.pool import Failure, Pool, SizedFactory
    from ingest.running import RunReport
    from ingest.testing.census import BuiltCensus

__all__ = [
    "MadeDataset",
    "SilentObserver",
    "make_dataset",
    "open_serial_pool",
    "write_census_index",
    "write_h5ad_index",
    "write_sources",
]


class SilentObserver:
    """Shows nothing; remembers what troubled the run."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def moved(self, n_cells: int, bytes_written: int, retries: int) -> None:
        """Take it and say nothing."""

    def troubled(self, failure: Failure, retried: int) -> None:  # noqa: ARG002 # the Protocol's
        """Keep the failure."""
        self.failures.append(failure)

    def began(self) -> None:
        """Say nothing."""

    def draining(self, n_units: int) -> None:
        """Take it and say nothing."""


@contextmanager
def open_serial_pool(factory: SizedFactory, size: int, *, memory_bytes: int) -> Iterator[Pool]:  # noqa: ARG001 # the Protocol's
    """Run units in this process, whatever the size asked for."""
    pool = SerialPool(factory)
    try:
        yield pool
    finally:
        pool.close()


@dataclass(frozen=True, slots=True, eq=False)
class MadeDataset:
    """A DEST and how it came about."""

    url: str
    opened: OpenPlan
    report: RunReport

    def reopen(self) -> OpenPlan:
        """Read the plan again through a store of its own, as another command would."""
        return open_plan(open_store(self.url))


def write_sources(folder: Path, *, n_files: int = 2, n_cells: int = 30, n_genes: int = 12) -> list[Path]:
    """Write `n_files` h5ad files of seeded counts, CSR and dense in turn, all over the same genes."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_h5ad_variant(
            folder / f"sample{number}.h5ad",
            sample_counts(n_cells, n_genes, seed=number),
            layout="dense" if number % 2 else "csr",
            obs=sample_obs(n_cells, seed=number),
        )
        for number in range(n_files)
    ]


def write_h5ad_index(path: Path, files: Sequence[Path]) -> Path:
    """Write an index of all cells of `files` as a person would with pandas: source, row, cell_type and a number."""
    frames = []
    for file in files:
        import h5py

        with h5py.File(file) as opened:
            n_cells = len(opened["obs"][opened["obs"].attrs["_index"]])
        source = Source("h5ad", address_of(str(file)), file_version(address_of(str(file))))
        rows = range(n_cells)
        kinds = list(itertools.islice(itertools.cycle(["T cell", "B cell", "neuron"]), n_cells))
        frames.append(
            pd.DataFrame(
                {"source": str(source), "row": rows, "cell_type": kinds, "score": [row / 8 for row in rows]},
            )
        )
    table = pd.concat(frames, ignore_index=True)
    table["cell_type"] = table["cell_type"].astype("category")
    table.to_feather(path)
    return path


def write_census_index(path: Path, census: BuiltCensus, *, organism: str = "homo_sapiens") -> Path:
    """Write an index of all primary cells of a mini-Census: joinids, a few labels, ``nnz`` and ``raw_sum``."""
    import tiledbsoma

    columns = ["soma_joinid", "dataset_id", "cell_type", "tissue", "nnz", "raw_sum"]
    with tiledbsoma.DataFrame.open(f"{census.uri}/census_data/{organism}/obs") as obs:
        table = obs.read(column_names=columns, value_filter="is_primary_data == True").concat().to_pandas()
    table.insert(0, "source", str(Source("soma", address_of(census.uri), census.spec.build_date, organism)))
    table.to_feather(path)
    return path


def make_dataset(
    dest: str,
    index: Path,
    *,
    data: DataSettings | None = None,
    work: WorkSettings | None = None,
    observer: Observer | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> MadeDataset:
    """Ingest the cells of `index` into `dest` with one worker in this process.

    Parameters
    ----------
    dest
        Folder or URL; a look-alike's address and credentials come from the environment.
    data, work
        Settings; seven cells a chunk by default.
    stop_requested
        As in `run_plan`: asked between units.

    Raises
    ------
    IngestError
        As any run.
    """
    data = data or DataSettings(cells_per_chunk=7)
    work = work or WorkSettings(workers=1)
    draft = draft_dataset(read_cells(index, limit=data.max_cells), data, work, cache=None)
    opened = commit_plan(open_store(dest, endpoint_url=work.endpoint_url), draft)
    divided = divide_work(draft.profile, opened, opened.ledger.done(), work)
    report = run_plan(
        opened, divided, work, open_serial_pool, observer or SilentObserver(), stop_requested=stop_requested
    )
    return MadeDataset(opened.store.url, opened, report)
