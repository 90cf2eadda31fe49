"""``--log-format json``: what a command says on stderr, as one JSON object a line, the last of them its summary."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import click

from ingest.json_lines import json_lines_are_on, log_event, say_always, start_json_lines, stop_json_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.pool import Failure
    from ingest.run_events import RunEvent

__all__ = ["CommandLog", "JsonRun", "log_format_option", "log_run", "summarize"]

_log = logging.getLogger(__name__)

_FORMATS = ("text", "json")
_LISTED = 20
"""Entries of a list in the summary; `status --json` has them all."""

_facts: dict[str, Any] = {}


def _choose(_ctx: click.Context, _parameter: click.Parameter, value: str) -> None:
    if value == "json":
        start_json_lines()
    else:
        stop_json_lines()


def log_format_option() -> click.Option:
    """Return the option that every command has."""
    return click.Option(
        ["--log-format"],
        type=click.Choice(_FORMATS),
        default="text",
        show_default=True,
        expose_value=False,
        callback=_choose,
        help="Of stderr; json: one object a line.",
    )


def _asked_for(arguments: Sequence[str]) -> bool:
    """Whether JSON is asked for, as far as that can be seen before the command line is understood: it may be wrong."""
    said = os.environ.get("CELL_INGEST_LOG_FORMAT", "")
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--log-format":
            said = following
        elif word.startswith("--log-format="):
            said = word.partition("=")[2]
    return said == "json"


def _command(arguments: Sequence[str]) -> str:
    words = [word for word in arguments[:2] if not word.startswith("-")]
    return " ".join(words[: 2 if words[:1] in (["index"], ["convert"]) else 1]) or "ingest"


class CommandLog:
    """The log of one command, as a context: from before its arguments are understood to its summary."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._start = time.monotonic()
        self._ended = False

    def __enter__(self) -> CommandLog:
        _facts.clear()
        if _asked_for(self._arguments):
            start_json_lines()
        return self

    def __exit__(self, *_: object) -> None:
        stop_json_lines()
        _facts.clear()

    def end(self, code: int) -> None:
        """Write the last line, once: how the command ended."""
        if self._ended or not json_lines_are_on():
            return
        self._ended = True
        command = _command(self._arguments)
        facts = {name: value for name, value in _facts.items() if name != "exit_code"}
        seconds = round(time.monotonic() - self._start, 3)
        level = logging.INFO if code == 0 else logging.ERROR if code in {1, 2} else logging.WARNING
        log_event(
            _log,
            "summary",
            f"{command} ended with exit code {code}",
            level=level,
            **{"command": command, "exit_code": code, "command_seconds": seconds, **facts},
        )


def summarize(**facts: Any) -> None:
    """Keep what the last line is to say; long lists are cut, and counted beside."""
    for name, value in facts.items():
        if isinstance(value, (list, tuple)) and len(value) > _LISTED:
            _facts[name], _facts[f"n_{name}"] = value[:_LISTED], len(value)
        else:
            _facts[name] = value


def log_run() -> list[JsonRun]:
    """Return who logs a run beside its display: nobody, where the log is for people."""
    return [JsonRun()] if json_lines_are_on() else []


class JsonRun:
    """Logs the run's events, each with the ids it is about; whatever is logged from its beginning on names the run."""

    def hear(self, event: RunEvent) -> None:
        """Log `event`; where the run stands is the display's to say, every ten seconds."""
        from ingest.run_events import RunBegan, RunEnded, UnitBegan, UnitSettled

        if isinstance(event, RunBegan):
            say_always(run=event.run)
            _say(
                "run-began",
                f"{event.command}: {event.n_units:,} units for {event.workers:,} workers",
                command=event.command,
                dest=event.dest,
                chunks=event.n_chunks,
                chunks_kept=event.n_kept,
                units=event.n_units,
                workers=event.workers,
                memory_bytes=event.memory_bytes,
            )
        elif isinstance(event, UnitBegan):
            task = event.task
            _say(
                "unit-submitted",
                f"unit {task.unit_id}: {_chunks_text(task.chunks)}",
                unit=task.unit_id,
                attempt=task.attempt,
                **_chunks(task.chunks),
            )
        elif isinstance(event, UnitSettled):
            self._settled(event)
        elif isinstance(event, RunEnded):
            _say("run-ended", event.outcome, outcome=event.outcome, seconds=round(event.seconds, 3))

    def _settled(self, event: Any) -> None:
        from ingest.pool import Ended

        task, settled = event.event.task, event.settled
        ids = {"unit": task.unit_id, "attempt": task.attempt}
        for failure in settled.failures:
            self._failed(failure, settled.retried, ids)
        facts: dict[str, Any] = {}
        if isinstance(event.event, Ended):
            outcome = event.event.outcome
            facts = {
                "cells": outcome.n_cells,
                "bytes_read": outcome.bytes_read,
                "bytes_written": outcome.bytes_written,
                "request_retries": outcome.retries,
                "peak_rss_bytes": outcome.peak_rss_bytes,
                "seconds_by_stage": {stage: round(seconds, 3) for stage, seconds in outcome.seconds.items()},
            }
        _say(
            "unit-settled",
            f"unit {task.unit_id}: {len(settled.done):,} of {len(task.chunks):,} chunks done",
            level=logging.WARNING if settled.failures else logging.INFO,
            **ids,
            lost=getattr(event.event, "kind", None),
            chunks_done=len(settled.done),
            chunks_adopted=len(settled.adopted),
            chunks_retried=settled.retried,
            **facts,
        )

    def _failed(self, failure: Failure, retried: int, ids: dict[str, Any]) -> None:
        _say(
            "failure",
            f"{_chunks_text(failure.chunks)}: {failure.message}",
            level=logging.WARNING if retried else logging.ERROR,
            **ids,
            **_chunks(failure.chunks),
            kind=failure.kind,
            handling=failure.handling,
            source=failure.source,
            hint=failure.hint,
            retried=bool(retried),
            traceback=failure.traceback,
        )


def _say(event: str, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    log_event(_log, event, message, level=level, **fields)


def _chunks(chunks: Sequence[int]) -> dict[str, Any]:
    """Return the chunks as fields: one by its number, more as ranges."""
    from ingest.status import spans

    if len(chunks) == 1:
        return {"chunk": chunks[0]}
    return {"chunks": [f"{first}-{last}" if last > first else f"{first}" for first, last in spans(chunks)][:_LISTED]}


def _chunks_text(chunks: Sequence[int]) -> str:
    if not chunks:
        return "no chunk"
    return f"chunk {chunks[0]}" if len(chunks) == 1 else f"{len(chunks):,} chunks from {chunks[0]} to {chunks[-1]}"
