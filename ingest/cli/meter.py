"""From the events of a run to its metrics: where `ingest` meets `actors.metrics`, as soon as there is a Ray."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ingest.run_events import RunBegan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.metrics import CountsWorkers, RunMetrics
    from ingest.run_events import RunEvent

__all__ = ["Meter"]

_log = logging.getLogger(__name__)


class Meter:
    """The metrics of a run, from when its pool is open: Ray must not be imported before it is connected to."""

    def __init__(self) -> None:
        self._began: RunBegan | None = None
        self._metrics: RunMetrics | None = None

    def hear(self, event: RunEvent) -> None:
        """Remember the run; count what happens in it."""
        if isinstance(event, RunBegan):
            self._began = event
        elif self._metrics is not None:
            self._metrics.hear(event)

    @contextmanager
    def reading(self, pool: CountsWorkers) -> Iterator[None]:
        """Count while the body runs; no trouble with metrics leaves here."""
        if self._began is None:
            yield
            return
        try:
            from actors.metrics import RunMetrics

            self._metrics = RunMetrics(self._began, pool)
        except Exception as error:  # noqa: BLE001 # whatever it is, the cells matter more than their counting
            _log.warning("no metrics: %r", error)
        try:
            yield
        finally:
            metrics, self._metrics = self._metrics, None
            if metrics is not None:
                with suppress(Exception):
                    metrics.close()
