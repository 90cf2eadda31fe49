"""``status --watch``: one screen redrawn on a terminal, lines in a log, until there is nothing more to see."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ingest.cli.progress import note, notice
from ingest.cli.words import count_text, duration_text
from ingest.json_lines import json_lines_are_on, log_event

if TYPE_CHECKING:
    from types import TracebackType

    from ingest.store.base import Store
    from ingest.watching import Look, Watched

__all__ = ["watch_dest"]

_log = logging.getLogger(__name__)

_LINE_EVERY_S = 10.0
_BAR = 30


def watch_dest(store: Store, *, every_s: float, patience_s: float) -> Watched:
    """Show how DEST stands until it changes no more; return the last look."""
    from ingest.watching import watch

    last: Watched | None = None
    with _Display(store.url) as display:
        for last in watch(store, every_s=every_s, patience_s=patience_s):
            display.show(last)
    assert last is not None  # noqa: S101 # a watch looks at least once
    _say_why_it_ends(store.url, last)
    return last


class _Display:
    """Where looks go to: the same place on a terminal, a line for each that has something new in a log."""

    def __init__(self, url: str) -> None:
        self._url = url
        console = Console(stderr=True, highlight=False)
        is_live = console.is_terminal and not json_lines_are_on()
        self._live = Live(console=console, auto_refresh=False, transient=True) if is_live else None
        self._said = ""
        self._next = 0.0

    def __enter__(self) -> _Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.transient = error is None  # else the last look is all there is
            self._live.stop()

    def show(self, watched: Watched) -> None:
        """Show one look."""
        if self._live is not None:
            self._live.update(Text("\n".join(_screen(self._url, watched)), no_wrap=True, overflow="ellipsis"))
            self._live.refresh()
            return
        said = f"{_work(watched)} {watched.look and watched.look.n_done}"
        now = time.monotonic()
        # A change is said, ten seconds apart; what somebody waits for, at once.
        if said != self._said and (watched.is_last or now >= self._next):
            self._said, self._next = said, now + _LINE_EVERY_S
            _say_line(watched)


def _say_line(watched: Watched) -> None:
    line = "  ".join(part for part in (_done(watched), _speed(watched), _work(watched)) if part)
    if not json_lines_are_on():
        notice("Watch", line)
        return
    look, facts = watched.look, dict[str, Any]()
    left_s, speed = watched.seconds_left, watched.cells_per_s
    facts["cells_per_s"] = None if speed is None else round(speed, 1)
    facts["seconds_left"] = None if left_s is None else round(left_s)
    if look is not None:
        facts |= {
            "chunks_done": look.n_done,
            "chunks": look.n_chunks,
            "cells_done": look.cells_done,
            "cells": look.n_cells,
            "runs": list(look.open_runs),
            "units_begun": look.n_begun,
            "failures": look.n_failures,
            "runs_without_end": look.n_without_end,
        }
    log_event(_log, "watch", line, verdict=watched.verdict, quiet_seconds=round(watched.quiet_s), **facts)


def _screen(url: str, watched: Watched) -> list[str]:
    """Return the lines of the screen."""
    lines = [url]
    if watched.look is not None:
        look = watched.look
        filled = _BAR * look.cells_done // max(1, look.n_cells)
        lines.append(f"  {'━' * filled}{'╌' * (_BAR - filled)}  {100 * look.cells_done / max(1, look.n_cells):.1f} %")
        lines.append(f"  done         {_done(watched)}")
        lines.append(f"  speed        {_speed(watched) or 'nothing has come since the watch began'}")
        lines += [f"  run          {name}" for name in look.open_runs[-3:]]
    lines.append(f"  now          {_work(watched)}")
    lines.append(f"  {time.strftime('%H:%M:%S')}     Ctrl-C ends the watch, and nothing else")
    return lines


def _done(watched: Watched) -> str:
    if watched.look is None:
        return ""
    look = watched.look
    return f"{look.n_done:,}/{look.n_chunks:,} chunks  {look.cells_done:,}/{look.n_cells:,} cells"


def _speed(watched: Watched) -> str:
    if not watched.cells_per_s:
        return ""
    left = f"  about {duration_text(watched.seconds_left)} left" if watched.seconds_left else ""
    return f"{watched.cells_per_s:,.0f} cells/s{left}"


def _work(watched: Watched) -> str:
    """Return what can be told of who is at work."""
    look = watched.look
    if watched.trouble is not None:
        return f"no answer: {watched.trouble}"
    if look is None:
        return "no plan yet: waiting for a run to begin"
    if look.complete:
        return "complete"
    if look.open_runs:
        return _runs(look, watched.quiet_s)
    if look.n_done == look.n_chunks:
        return "all chunks are there: waiting for the summaries"
    return f"no run is at work{_without_end(look, ', ')}: waiting for one to begin"


def _runs(look: Look, quiet_s: float) -> str:
    at_work = f"{count_text(len(look.open_runs), 'run')} at work"
    begun = f"{count_text(look.n_begun, 'unit')} begun"
    failures = f", {count_text(look.n_failures, 'failure')} on record" if look.n_failures else ""
    failures += _without_end(look, "; ")
    if quiet_s < 60:
        return f"{at_work}, {begun}{failures}"
    return f"{at_work}, or killed: {begun}{failures}, no sign of life for {duration_text(quiet_s)}"


def _without_end(look: Look, before: str) -> str:
    """Return how many runs are taken for dead; nothing where none is."""
    return f"{before}{look.n_without_end:,} without an end" if look.n_without_end else ""


def _say_why_it_ends(url: str, watched: Watched) -> None:
    if watched.verdict == "idle":
        dead = "" if watched.look is None else _without_end(watched.look, ", ")
        notice("Watch", f"no run is at work any more{dead}, and the dataset is not complete")
    elif watched.verdict == "quiet" and watched.look is None:
        what = watched.trouble or "no run has begun"
        note(f"error: {url}: {what}; nothing has changed for {duration_text(watched.quiet_s)}")
    elif watched.verdict == "quiet":
        notice("Watch", f"no sign of life for {duration_text(watched.quiet_s)}: the run was killed, or is stuck")
