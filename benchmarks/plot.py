"""One picture: how many times faster than the seed's way, and how near to the bare read."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.findings import read_ratios, seed_ratios
from benchmarks.results import medians
from benchmarks.tables import count

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Results

__all__ = ["draw"]

_SEED, _OURS, _READ = "#9a9a9a", "#1f6fb2", "#d8e4ee"
_HIGH = 0.36


@dataclass(frozen=True, slots=True)
class _Bar:
    """One circumstance; cells delivered a second."""

    label: str
    seed: float | None
    ours: float
    read: float

    ratio: float
    """The median of the rounds' ratios: against the seed's way, or, where there is none, the bare read."""

    @property
    def finding(self) -> str:
        return f"{self.ratio:.0%} of the read" if self.seed is None else f"{self.ratio:.1f} times"


def draw(results: Results, path: Path) -> None:
    """Write the PNG."""
    bars = _bars(results)[::-1]  # matplotlib counts upwards
    figure = Figure(figsize=(10, 1.9 + 0.95 * len(bars)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    limit = max(bar.read for bar in bars)
    for place, bar in enumerate(bars):
        _draw_bar(axes, place, bar, gap=limit / 90, limit=limit)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=13)
    axes.set_xlim(0, limit * 1.05)
    axes.xaxis.set_major_formatter(lambda value, _: count(value))
    axes.tick_params(axis="x", labelsize=12)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"cells delivered a second, {_workers(results)} workers", fontsize=13)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(_title(results), x=0.01, ha="left", fontsize=16, weight="bold")
    keys = [Patch(color=_OURS), Patch(color=_SEED), Patch(color=_READ)]
    names = ["ours", "the first seed's way", "a bare read, everything dropped"]
    figure.legend(keys, names, loc="outside lower center", ncols=3, frameon=False, fontsize=13)
    figure.savefig(path)


def _draw_bar(axes: Any, place: int, bar: _Bar, *, gap: float, limit: float) -> None:
    axes.barh(place, bar.read, 2.3 * _HIGH, color=_READ)
    middle = place if bar.seed is None else place + 0.55 * _HIGH
    axes.barh(middle, bar.ours, _HIGH, color=_OURS)
    said = f"{count(bar.ours)}   {bar.finding}"
    inside = bar.ours > limit / 2
    where = {"x": bar.ours - gap, "ha": "right", "color": "white"} if inside else {"x": bar.ours + gap}
    axes.text(y=middle, s=said, va="center_baseline", fontsize=14, weight="bold", **where)
    if bar.seed is not None:
        axes.barh(place - 0.55 * _HIGH, bar.seed, _HIGH, color=_SEED)
        axes.text(bar.seed + gap, place - 0.55 * _HIGH, count(bar.seed), va="center_baseline", fontsize=13)


def _bars(results: Results) -> list[_Bar]:
    found = []
    for size in _sizes(results, "comparison"):
        seed, ours, read = (results.rows("comparison", way=way, size=size) for way in ("seed", "ours", "read"))
        # Of what is read, the share that was asked for is delivered.
        most = medians(read, "cells_per_s") * read[0]["density"]
        label = f"half of the cells, to S3,\n{count(size)} a file"
        ratio = median(seed_ratios(results, size))
        found.append(_Bar(label, medians(seed, "cells_per_s"), medians(ours, "cells_per_s"), most, ratio))
    for size in _sizes(results, "dense")[-1:]:
        ours, read = (results.rows("dense", way=way, size=size) for way in ("ours", "read"))
        label = f"all cells, to a folder,\n{count(size)} a file"
        ratio = median(read_ratios(results, size))
        found.append(_Bar(label, None, medians(ours, "cells_per_s"), medians(read, "cells_per_s"), ratio))
    return found


def _title(results: Results) -> str:
    times = [median(seed_ratios(results, size)) for size in _sizes(results, "comparison")]
    dense = _sizes(results, "dense")
    title = f"{min(times):.1f} to {max(times):.0f} times as fast as the first seed's way"
    return f"{title}, {median(read_ratios(results, dense[-1])):.0%} of a bare read" if dense else title


def _sizes(results: Results, section: str) -> list[int]:
    return sorted({row["size"] for row in results.rows(section)})


def _workers(results: Results) -> int:
    return int(results.rows("comparison")[0]["workers"])
