"""How many cells each stratum gives to a sample: pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["equal_shares", "proportional_shares"]


def equal_shares(sizes: Mapping[str, int], cells: int) -> dict[str, int]:
    """Give every stratum the same number of cells; what small ones lack is spread over the others.

    Parameters
    ----------
    sizes
        Cells in each stratum.
    cells
        Cells wanted; at most the sum of `sizes`.
    """
    shares: dict[str, int] = {}
    left = cells
    # Smallest first: one that cannot give its share raises the share of all that follow.
    for taken, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        shares[name] = min(sizes[name], left // (len(sizes) - taken))
        left -= shares[name]
    return shares


def proportional_shares(sizes: Mapping[str, int], cells: int) -> dict[str, int]:
    """Give every stratum cells in proportion to its size, rounded by largest remainder.

    Parameters
    ----------
    sizes, cells
        As in `equal_shares`.
    """
    total = sum(sizes.values())
    shares = {name: cells * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(cells * sizes[name] % total), name))
    for name in by_remainder[: cells - sum(shares.values())]:
        shares[name] += 1
    return shares
