"""Processes that hold the workers of a Ray: whom a test kills."""

from __future__ import annotations

import psutil

__all__ = ["workers_of"]

_TITLE = "ray::WorkerActor"
"""What Ray calls a process that holds a `actors.worker.WorkerActor`."""


def workers_of(pid: int) -> set[psutil.Process]:
    """Return the workers below process `pid`, which has started their Ray; those that end meanwhile are left out."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {process for process in below if _title(process).startswith(_TITLE)}


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
