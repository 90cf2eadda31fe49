"""What a worker of a conversion does: bring parts into the arrays, then to the disk, then write down that it did."""

from __future__ import annotations

import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import (
    ConfigError,
    ConflictError,
    IngestError,
    SourceChangedError,
    SourceError,
    TransientError,
)
from ingest.fetch.heap import keep_freed_memory
from ingest.load.memmap.archive import ArrayFiles
from ingest.load.memmap.convert.opening import ReadOptions, open_facts
from ingest.load.memmap.convert.workplace import PartReceipt, Workplace, read_plan
from ingest.pool import Progress, UnitOutcome, unforeseen
from ingest.unit_maker import failure_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from ingest.load.memmap.convert.base import LossyCast
    from ingest.load.memmap.convert.opening import DescribedRows
    from ingest.load.memmap.convert.plan import ConversionPlan, Part
    from ingest.pool import Failure, UnitTask

__all__ = ["ConvertFactory", "ConvertWorker", "lossy_error"]


@dataclass(frozen=True, slots=True)
class ConvertFactory:
    """All that travels to a worker: it finds the plan where the archive is made."""

    path: str
    """Of the archive to be, absolute."""
    digest: str
    """Of the plan."""
    options: ReadOptions
    allow_lossy: bool = False

    @property
    def threads(self) -> int:
        """CPUs of one worker."""
        return self.options.threads

    def __call__(self) -> ConvertWorker:
        """Build the worker, in the process that will use it."""
        return ConvertWorker(self)


class ConvertWorker:
    """Writes the parts of units, one unit at a time; one part is brought to the disk while the next is read."""

    def __init__(self, factory: ConvertFactory) -> None:
        self._factory = factory
        self._workplace = Workplace(factory.path)
        self._stop = threading.Event()
        self._unit: _Unit | None = None
        self._plan: ConversionPlan | None = None
        self._arrays: ArrayFiles | None = None
        self._source: tuple[int, DescribedRows] | None = None
        self._syncing = ThreadPoolExecutor(1, "cell-ingest-sync")

    def ready(self) -> None:
        """Open the arrays, and compile what is run.

        Raises
        ------
        ConfigError
            The folder is not to be seen from here (kind ``not-shared``).
        ConflictError
            Another conversion has taken its place.
        """
        from ingest.warm import compile_copy_kernels, compile_load_kernels

        keep_freed_memory()
        plan, _ = self._open()
        for kind in {source.facts.kind for source in plan.sources}:
            compile_load_kernels() if kind == "chunks" else compile_copy_kernels()

    def _open(self) -> tuple[ConversionPlan, ArrayFiles]:
        if self._plan is not None and self._arrays is not None:
            return self._plan, self._arrays
        folder = self._workplace.folder
        plan = read_plan(folder)
        if plan is None:
            raise ConfigError(
                f"{folder} is not to be seen by every worker: plan.json is not there",
                kind="not-shared",
                hint="write to a folder that all machines share, or take --pool threads",
            )
        arrays = ArrayFiles(folder, plan.spec)
        # After they are open: should another conversion take the folder's name, its arrays are not the ones opened.
        now = read_plan(folder)
        if plan.digest != self._factory.digest or now is None or now.digest != plan.digest:
            arrays.close()
            raise ConflictError(f"{folder} is of another conversion now", kind="workplace-gone")
        self._plan, self._arrays = plan, arrays
        return plan, arrays

    def run(self, task: UnitTask) -> UnitOutcome:
        """Write the parts of `task`; expected trouble is reported, not raised."""
        plan, arrays = self._open()
        unit = _Unit(task)
        self._unit = unit
        for number in task.chunks:
            if self._stop.is_set():
                unit.undone.append(number)
            else:
                self._make(plan, arrays, plan.parts[number], unit)
        for part, synced in unit.syncing:
            with unit.reporting(part, self._workplace):
                synced.result()
                unit.done.append(part)
        self._unit = None
        return unit.outcome(plan)

    def _make(self, plan: ConversionPlan, arrays: ArrayFiles, part: Part, unit: _Unit) -> None:
        with unit.reporting(part, self._workplace):
            source = self._opened(plan, part.source)
            written = source.write(part.place, arrays, tolerance=plan.tolerance, reached=unit.reached)
            if (written.n_rows, written.n_entries) != (part.place.n_rows, part.n_entries):
                said = f"{source.label} has {written.n_entries:,} entries in rows that had {part.n_entries:,}"
                raise SourceChangedError(said, kind="entries-changed")
            if written.lossy is not None and not self._factory.allow_lossy:
                raise lossy_error(source.label, written.lossy, plan.spec.data)
            receipt = PartReceipt.of(plan, part, written.lossy)
            unit.wrote(part, plan, self._syncing.submit(self._sync, arrays, receipt))

    def _sync(self, arrays: ArrayFiles, receipt: PartReceipt) -> None:
        arrays.sync()
        self._workplace.put(receipt)

    def _opened(self, plan: ConversionPlan, number: int) -> DescribedRows:
        if self._source is None or self._source[0] != number:
            self._close_source()
            self._source = number, open_facts(plan.sources[number].facts, self._factory.options)
        return self._source[1]

    def _close_source(self) -> None:
        if self._source is not None:
            self._source[1].close()
        self._source = None

    def progress(self) -> Progress | None:
        """Return how far the unit in hand is; callable from any thread."""
        unit = self._unit
        return None if unit is None else unit.progress

    def stop_soon(self) -> None:
        """End after the part in hand; callable from any thread."""
        self._stop.set()

    def close(self) -> None:
        """Let go of files."""
        self._syncing.shutdown()
        self._close_source()
        if self._arrays is not None:
            self._arrays.close()
        self._arrays = self._plan = None


class _Unit:
    """One unit in the making."""

    def __init__(self, task: UnitTask) -> None:
        self._task = task
        self.undone: list[int] = []
        self.syncing: list[tuple[Part, Future[None]]] = []
        self.done: list[Part] = []
        self._failures: list[Failure] = []
        self._rows = self._bytes = 0
        self.progress = Progress(task.unit_id, 0, 0, 0)

    def reached(self, n_rows: int) -> None:
        """Take how many rows of the part in hand are written."""
        self.progress = Progress(self._task.unit_id, self._rows + n_rows, self._bytes, 0)

    def wrote(self, part: Part, plan: ConversionPlan, synced: Future[None]) -> None:
        """Take a part that is on its way to the disk."""
        self.syncing.append((part, synced))
        self._rows, self._bytes = self._rows + part.place.n_rows, self._bytes + plan.bytes_of(part)
        self.reached(0)

    @contextmanager
    def reporting(self, part: Part, workplace: Workplace) -> Iterator[None]:
        """Turn what is raised into a failure of the part."""
        try:
            yield
        except IngestError as error:
            self._failures.append(failure_of(error, (part.number,)))
        except OSError as error:
            self._failures.append(failure_of(_disk_error(workplace, error), (part.number,)))
        except Exception as error:  # noqa: BLE001 # reported like any other, with the part that did it
            self._failures.append(unforeseen((part.number,), error))

    def outcome(self, plan: ConversionPlan) -> UnitOutcome:
        """Return what has become of it."""
        return UnitOutcome(
            unit_id=self._task.unit_id,
            done=tuple(part.number for part in self.done),
            failures=tuple(self._failures),
            undone=tuple(self.undone),
            n_cells=sum(part.place.n_rows for part in self.done),
            nnz=sum(part.n_entries for part in self.done),
            bytes_written=sum(map(plan.bytes_of, self.done)),
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )


def lossy_error(label: str, lossy: LossyCast, dtype: str) -> SourceError:
    """Return the error of a value that the archive's type does not hold."""
    return SourceError(
        f"{label}: row {lossy.row:,} holds {lossy.value}, which {dtype} changes by {lossy.difference}",
        kind="lossy-cast",
        hint="--data-dtype names a type that holds it; --allow-lossy stores what this one makes of it",
        source=label,
    )


def _disk_error(workplace: Workplace, error: OSError) -> IngestError:
    if isinstance(error, FileNotFoundError):
        said = f"{workplace.folder} is gone while it is written"
        return ConflictError(said, kind="workplace-gone", hint="run the same command again")
    return TransientError(f"{workplace.folder}: {error.strerror or error}", kind="disk-io")
