"""What a person sees while cells move: one bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from ingest.cli.words import bytes_text, duration_text
from ingest.json_lines import json_lines_are_on, log_event

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.progress import Task

    from ingest.pool import Failure

__all__ = ["CountDisplay", "RunDisplay", "note", "notice"]

_log = logging.getLogger(__name__)

_LOG_EVERY_S = 10.0
_SAID_TROUBLES = 20
"""Troubles spelled out; a broken store would fill a log with thousands."""


def notice(word: str, text: str, **facts: Any) -> None:
    """Write one step of the way to stderr: a word in its column and what it came to; `facts` are for JSON alone."""
    if json_lines_are_on():
        log_event(_log, word.lower().replace(" ", "-"), text, **facts)
        return
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold]{word:<8}[/bold] ", end="")
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # rich would read brackets in paths as markup


def note(text: str) -> None:
    """Write a plain line to stderr."""
    if json_lines_are_on():
        _note_as_json(text)
        return
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # stderr is for progress


def _note_as_json(text: str) -> None:
    said = text.strip()
    if said.startswith("error: "):
        log_event(_log, "error", said.removeprefix("error: "), level=logging.ERROR)
    elif said:
        log_event(_log, "note", said)


class _Rate(ProgressColumn):
    """Cells and megabytes a second, and retries."""

    def render(self, task: Task) -> Text:
        if task.description == "starting":
            return Text(f"{int(task.completed):,}/{int(task.total or 0):,} cells  starting workers")
        elapsed = max(task.elapsed or 0.0, 1e-9)
        made = task.completed - task.fields["before"]
        retries = task.fields["retries"]
        word = "retry" if retries == 1 else "retries"
        return Text(
            f"{int(task.completed):,}/{int(task.total or 0):,} cells  {made / elapsed:,.0f} cells/s  "
            f"{task.fields['written'] / elapsed / 1e6:,.1f} MB/s  {retries:,} {word}"
        )


class RunDisplay:
    """The run's observer, as a context.

    Parameters
    ----------
    total_cells, before_cells
        Of the dataset, and of its chunks that exist already.
    idle
        There is nothing to make, so there is nothing to show.
    """

    def __init__(self, total_cells: int, before_cells: int, *, idle: bool = False) -> None:
        self._idle = idle
        self._total, self._before = total_cells, before_cells
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not json_lines_are_on()
        self._start = self._last_line = time.monotonic()
        self._state = (before_cells, 0, 0)
        self._troubles = 0
        self._progress = Progress(
            TextColumn("[bold]Ingest  "),
            BarColumn(bar_width=30),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(
            "starting", total=total_cells, completed=before_cells, before=before_cells, written=0, retries=0
        )

    def __enter__(self) -> RunDisplay:
        if self._live and not self._idle:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()
        elif not self._idle:
            self._line()

    def began(self) -> None:
        """Start the clock: the workers are there."""
        self._start = time.monotonic()
        self._progress.reset(self._task, completed=self._before, description="cells")

    def moved(self, n_cells: int, bytes_written: int, retries: int) -> None:
        """Take the state of this run."""
        self._state = (self._before + n_cells, bytes_written, retries)
        if self._live:
            self._progress.update(self._task, completed=self._state[0], written=bytes_written, retries=retries)
        elif time.monotonic() - self._last_line >= _LOG_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = max(self._last_line - self._start, 1e-9)
        cells, written, retries = self._state
        speed = (cells - self._before) / elapsed
        left_s = (self._total - cells) / speed if speed and cells < self._total else None
        left = f"about {duration_text(left_s)} left" if left_s is not None else ""
        text = (
            f"{cells:,}/{self._total:,} cells  {speed:,.0f} cells/s  "
            f"{bytes_text(written / elapsed)}/s  {retries:,} retries  {left}".rstrip()
        )
        if not json_lines_are_on():
            note(f"{'Ingest':<8} {text}")
            return
        log_event(
            _log,
            "progress",
            text,
            cells=cells,
            cells_total=self._total,
            cells_per_s=round(speed, 1),
            bytes_written=written,
            bytes_per_s=round(written / elapsed),
            retries=retries,
            seconds_left=None if left_s is None else round(left_s),
        )

    def troubled(self, failure: Failure, retried: int) -> None:
        """Say what went wrong and what is done about it."""
        self._troubles += 1
        if self._troubles > _SAID_TROUBLES or json_lines_are_on():  # there it has its own line, with all ids
            return
        what = f"{len(failure.chunks)} chunks" if len(failure.chunks) > 1 else f"chunk {failure.chunks[0]}"
        then = "trying again" if retried else "not made" if failure.handling == "config" else "set aside"
        self.say(f"{what} {then}: {failure.message}")
        if self._troubles == _SAID_TROUBLES:
            self.say("further troubles are recorded, and counted at the end")

    def draining(self, n_units: int) -> None:
        """Say that the run ends after the units in hand."""
        if n_units:
            self.say(f"finishing {n_units} unit{'s' if n_units > 1 else ''} in hand (again to stop now)")

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        if self._live:
            self._console.print(Text(text))
        else:
            note(text)


class CountDisplay:
    """A bar over things that are counted, on a terminal; silence in a log but for a line every ten seconds."""

    def __init__(self, word: str, total: int, things: str) -> None:
        self._word, self._total, self._things = word, total, things
        console = Console(stderr=True, highlight=False)
        self._live = console.is_terminal and not json_lines_are_on()
        self._done = 0
        self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn(f"[bold]{word:<8}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + things),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(word, total=total)

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def advance(self) -> None:
        """Count one more; callable from any thread."""
        self.reached(self._done + 1)

    def reached(self, done: int) -> None:
        """Take how many are done."""
        self._done = min(done, self._total)
        if self._live:
            self._progress.update(self._task, completed=self._done)
        elif time.monotonic() - self._last_line >= _LOG_EVERY_S:
            self._last_line = time.monotonic()
            notice(self._word, f"{self._done:,}/{self._total:,} {self._things}")
