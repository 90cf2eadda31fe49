"""Draw whole samples at random until there are cells enough: pure arithmetic.

Samples come in an order that seed and accession alone decide, so a draw does not depend on how the catalogue lists
them, and one more sample in it moves nothing but its own place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from index.shares import equal_shares, proportional_shares
from ingest.errors import EmptySelectionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["SampleDraw", "choose_samples", "shuffled"]


@dataclass(frozen=True, slots=True)
class SampleDraw:
    """What to draw.

    Raises
    ------
    EmptySelectionError
        No cells are wanted.
    """

    cells: int
    """The target; all cells when there are fewer."""
    seed: int = 0
    last: Literal["cut", "whole"] = "cut"
    """Of the sample that passes the target: only as many cells as are missing, drawn at random, or all."""
    stratify: str | None = None
    """Column of samples whose values share the target."""
    shares: Literal["equal", "proportional"] = "proportional"
    """How they share it."""

    def __post_init__(self) -> None:
        if self.cells <= 0:
            raise EmptySelectionError(f"--cells {self.cells} draws nothing", hint="say how many cells are wanted")


def choose_samples(
    sizes: Mapping[str, int], draw: SampleDraw, strata: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Return sample -> cells taken of it, in the order of the draw; every sample but the last of a stratum is whole.

    Parameters
    ----------
    sizes
        Sample -> its cells; one without cells is never drawn.
    strata
        Sample -> stratum; all are one stratum unless given.
    """
    groups: dict[str, dict[str, int]] = {}
    for sample, size in sizes.items():
        if size > 0:
            groups.setdefault("" if strata is None else strata[sample], {})[sample] = size
    totals = {stratum: sum(group.values()) for stratum, group in groups.items()}
    cells = min(draw.cells, sum(totals.values()))
    shares = (equal_shares if draw.shares == "equal" else proportional_shares)(totals, cells) if totals else {}
    taken: dict[str, int] = {}
    for stratum in sorted(groups):
        left = shares[stratum]
        for sample in shuffled(groups[stratum], draw.seed):
            if left <= 0:
                break
            taken[sample] = groups[stratum][sample] if draw.last == "whole" else min(groups[stratum][sample], left)
            left -= taken[sample]
    return taken


def shuffled(samples: Iterable[str], seed: int) -> list[str]:
    """Return `samples` in the order in which `seed` draws them."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{seed}\n{sample}".encode()).digest())
