"""Several transforms as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.load.transform.base import bad_transform, goes_by_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.block import Counts
    from ingest.load.stream import Transform
    from ingest.load.transform.base import Totals

__all__ = ["Compose"]


@dataclass(frozen=True, slots=True)
class Compose:
    """Apply transforms one after the other.

    Raises
    ------
    ConfigError
        ``bad-transform``: one that normalises by a cell's total does not stand first; the total is that of counts.
    """

    transforms: Sequence[Transform]
    """In order; none at all changes nothing. Kept as a tuple."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        for transform in self.transforms[1:]:
            if goes_by_totals(transform):
                raise bad_transform(
                    f"{transform} after {self.transforms[0]}: it goes by the total of a cell's counts",
                    hint="put it first",
                )

    @property
    def goes_by_totals(self) -> bool:
        """As of the first."""
        return any(goes_by_totals(transform) for transform in self.transforms)

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:
        """Return what the last one makes of what those before it made."""
        for transform in self.transforms:
            counts, totals = transform(counts, totals), None
        return counts
