"""How often a worker may fail to start: pure counting."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.errors import ConfigError, IngestError

__all__ = ["StartBudget"]

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0


@dataclass(slots=True)
class StartBudget:
    """Count failed starts since a worker last took a unit, so that a broken image cannot respawn for ever.

    A worker that dies before its first unit counts as a failed start too.
    """

    limit: int
    """After so many failures in a row nobody is started while no worker lives."""
    failures: int = 0
    cause: Exception | None = None
    """Of the latest failure."""

    def failed(self, cause: Exception) -> None:
        """Count one failure."""
        self.failures += 1
        self.cause = cause

    def worked(self) -> None:
        """Forget the failures: a worker took a unit."""
        self.failures = 0
        self.cause = None

    @property
    def spent(self) -> bool:
        """Whether `limit` is reached."""
        return self.failures >= self.limit

    @property
    def delay_s(self) -> float:
        """Seconds until the next start: none at first, then doubling up to 30."""
        return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** (min(self.failures, 16) - 1)) if self.failures else 0.0

    def error(self) -> ConfigError:
        """Return what to raise when the budget is spent; raise it ``from`` `cause`."""
        hint = self.cause.hint if isinstance(self.cause, IngestError) else None
        return ConfigError(
            f"no worker can be started ({self.failures} failed in a row): {self.cause}",
            kind="pool-start",
            hint=hint or "look at the worker's log in the Ray session folder, or run one worker in this process",
        )
