"""One picture of training loaders: cells a CPU-second, sparse and dense, ours beside the others."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.findings import loading_ratios
from benchmarks.tables import count

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Results

__all__ = ["draw_loading"]

_OURS, _OTHERS = "#1f6fb2", "#9a9a9a"
_FORMS = {"csr": "sparse batches of 512", "dense": "dense batches of 512"}


def draw_loading(results: Results, path: Path) -> None:
    """Write the PNG."""
    speeds = {form: _speeds(results, form) for form in _FORMS}
    shown = {form: bars for form, bars in speeds.items() if bars}
    figure = Figure(figsize=(10, 1.6 + 0.42 * sum(map(len, shown.values()))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(
        len(shown), squeeze=False, gridspec_kw={"height_ratios": [len(bars) for bars in shown.values()]}
    )
    for axes, (form, bars) in zip(panels[:, 0], shown.items(), strict=True):
        _draw_panel(axes, _FORMS[form], bars[::-1])  # matplotlib counts upwards
    figure.suptitle(_title(results), x=0.01, ha="left", fontsize=14, weight="bold")
    figure.savefig(path)


def _draw_panel(axes: Any, title: str, bars: list[tuple[str, float]]) -> None:
    limit = max(speed for _, speed in bars)
    colours = [_OURS if name.startswith("ours") else _OTHERS for name, _ in bars]
    axes.barh(range(len(bars)), [speed for _, speed in bars], 0.7, color=colours)
    for place, (_, speed) in enumerate(bars):
        axes.text(speed + limit / 90, place, count(speed), va="center_baseline", fontsize=12)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=12)
    axes.set_xlim(0, limit * 1.12)
    axes.xaxis.set_major_formatter(lambda value, _: count(value))
    axes.set_xlabel(f"cells a CPU-second, {title}", fontsize=12)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _speeds(results: Results, form: str) -> list[tuple[str, float]]:
    """Return the ways and their medians, fastest first."""
    found: dict[str, list[float]] = {}
    for row in results.rows("loading", form=form):
        found.setdefault(row["way"], []).append(float(row["rows_per_cpu_s"]))
    return sorted(((name, median(values)) for name, values in found.items()), key=lambda bar: -bar[1])


def _title(results: Results) -> str:
    others = ("annbatch", "scDataset", "AnnLoader")
    times = [(name, loading_ratios(results, "ours, lz4", name)) for name in others]
    said = [f"{median(values):.2g} times {name}" for name, values in times if values]
    return f"lz4, a CPU-second: {', '.join(said)}" if said else "Cells a CPU-second"
