"""qc.png: the three metrics before and after, genes against counts, and what each rule drops."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.qc.document import METRICS
from ingest.qc.table import mito_pct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.qc.find import QcFound, QcRequest

__all__ = ["can_plot", "draw_qc"]

Array = np.ndarray[Any, Any]

_ALL, _KEPT, _LINE, _DROPPED = "#b8b8b8", "#3b6ea5", "#333333", "#c8452d"
_MOST_CELLS = 40_000
"""Drawn, evenly spaced: violins and a cloud of more look the same."""

_LABELS = {
    "n_genes_by_counts": "genes a cell",
    "total_counts": "counts a cell",
    "pct_counts_mt": "mitochondrial counts (%)",
}
_SAID = {
    "n_genes_by_counts": ("", " genes"),
    "total_counts": ("", " counts"),
    "pct_counts_mt": (" %", ""),
}
_BOUNDS: Mapping[str, tuple[str, ...]] = {
    "n_genes_by_counts": ("min_genes", "max_genes"),
    "total_counts": ("min_counts", "max_counts"),
    "pct_counts_mt": ("max_mito_pct",),
}
_ADAPTIVE = {"n_genes_by_counts": "mad_genes", "total_counts": "mad_counts", "pct_counts_mt": "mad_mito"}


def can_plot() -> bool:
    """Say whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_qc(request: QcRequest, found: QcFound, document: Mapping[str, Any]) -> bytes:
    """Return the plot as PNG, 2000 x 1450; the same result gives the same bytes with the same matplotlib.

    Parameters
    ----------
    document
        qc.json, of which medians are said.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: dict[Any, Any] = {
        "font.size": 14,
        "axes.titlesize": 15,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
    }
    cells = found.table.sample(_MOST_CELLS)
    with rc_context(style):
        figure = Figure(figsize=(16, 11.6), dpi=125, layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.25))
        halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.25])
        above, below = halves
        for axes, name in zip(above.subplots(1, len(METRICS)), METRICS, strict=True):
            _draw_metric(axes, cells, name, request, found, document)
        cloud, rules = below.subplots(1, 2, width_ratios=[1.5, 1])
        _draw_cloud(cloud, cells, below, request, found)
        _draw_rules(rules, found)
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _draw_metric(
    axes: Any, cells: Array, name: str, request: QcRequest, found: QcFound, document: Mapping[str, Any]
) -> None:
    axes.set_ylabel(_LABELS[name])
    if name not in document["metrics"]:
        axes.set_title("No mitochondrial gene is known")
        axes.set_axis_off()
        return
    values, kept = METRICS[name](cells), cells["flags"] == 0
    known = ~np.isnan(values)
    logarithmic = name != "pct_counts_mt"
    groups = [values[known], values[known & kept]]
    for place, (group, colour) in enumerate(zip(groups, (_ALL, _KEPT), strict=True)):
        _draw_violin(axes, group, place, colour, logarithmic=logarithmic)
    axes.set_xticks([0, 1], [f"all\n{len(found.table):,}", f"kept\n{found.n_kept:,}"])
    axes.set_xlim(-0.55, 1.55)
    for bound in _bounds(name, request, found):
        axes.axhline(bound, color=_DROPPED, lw=1.5, ls="--")
    if logarithmic:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
    spread = document["metrics"][name]
    middle = [spread[group]["median"] for group in ("all", "kept")]
    said = [_short(value) for value in middle]
    unit, what = _SAID[name]
    axes.set_title(f"Median {said[0]}{unit}{what}" + (f", kept {said[1]}{unit}" if said[0] != said[1] else ""))


def _draw_violin(axes: Any, values: Array, place: int, colour: str, *, logarithmic: bool) -> None:
    """Draw the outline of a histogram, smoothed: no estimate that needs all values at once."""
    if logarithmic:
        values = values[values > 0]
    if not len(values):
        return
    scaled = np.log10(values) if logarithmic else values
    low, high = float(scaled.min()), float(scaled.max())
    edges = np.linspace(low - 1e-9, max(high, low + 1e-6) + 1e-9, 81)
    counts = np.convolve(np.histogram(scaled, edges)[0].astype(float), np.hanning(9), mode="same")
    width = 0.42 * counts / max(counts.max(), 1e-12)
    middles = (edges[1:] + edges[:-1]) / 2
    heights = 10**middles if logarithmic else middles
    axes.fill_betweenx(heights, place - width, place + width, color=colour, linewidth=0)
    quarter, middle, three = np.quantile(values, [0.25, 0.5, 0.75])
    axes.plot([place, place], [quarter, three], color=_LINE, lw=5, solid_capstyle="butt")
    axes.plot([place], [middle], marker="o", color="white", markersize=7, markeredgecolor=_LINE)


def _bounds(name: str, request: QcRequest, found: QcFound) -> list[float]:
    fixed = [getattr(request.rules, rule) for rule in _BOUNDS[name] if getattr(request.rules, rule) is not None]
    deviation = found.deviations.get(_ADAPTIVE[name])
    adaptive = [] if deviation is None else [deviation.low, deviation.high]
    return [bound for bound in [*fixed, *adaptive] if bound > 0 and np.isfinite(bound)]


def _draw_cloud(axes: Any, cells: Array, figure: Any, request: QcRequest, found: QcFound) -> None:
    seen = cells[(cells["total"] > 0) & (cells["n_genes"] > 0)]
    kept = seen["flags"] == 0
    options = {"linewidths": 0, "rasterized": True, "s": 7 if len(seen) > 5_000 else 16}
    gone = seen[~kept]
    axes.scatter(
        gone["total"],
        gone["n_genes"],
        color=_DROPPED,
        marker="x",
        alpha=0.6,
        label="dropped",
        s=options["s"] * 2,
        linewidths=1.2,
        zorder=3 if len(gone) < len(seen) // 4 else 1,
        rasterized=True,
    )
    if request.mito.any():
        share = mito_pct(seen)
        top = max(float(np.nanquantile(share, 0.99)), 1e-3) if len(share) else 1.0
        points = axes.scatter(
            seen["total"][kept],
            seen["n_genes"][kept],
            c=share[kept],
            cmap="viridis",
            vmin=0,
            vmax=top,
            zorder=2,
            **options,
        )
        figure.colorbar(points, ax=axes, label="mitochondrial counts (%)", pad=0.01)
    else:
        axes.scatter(seen["total"][kept], seen["n_genes"][kept], color=_KEPT, zorder=2, **options)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis)
    axes.set_xlabel("counts a cell")
    axes.set_ylabel("genes a cell")
    if len(gone):
        axes.legend(loc="upper left", frameon=False, markerscale=2)
    n = len(found.table)
    pct = 100 * found.n_kept / n if n else 0.0
    axes.set_title(f"{found.n_kept:,} of {n:,} cells stay ({_share(pct)} %)")


def _draw_rules(axes: Any, found: QcFound) -> None:
    if not found.drops:
        axes.set_title("No rule drops a cell")
        axes.set_axis_off()
        return
    names = list(found.drops)
    breaking = np.array([found.drops[name].breaking for name in names])
    alone = np.array([found.drops[name].alone for name in names])
    places = np.arange(len(names))
    axes.barh(places, breaking, color=_ALL, height=0.7, label="break the rule")
    axes.barh(places, alone, color=_DROPPED, height=0.7, label="break no other")
    for place, count, only in zip(places, breaking.tolist(), alone.tolist(), strict=True):
        axes.annotate(
            f" {count:,} ({only:,} by it alone)",
            (count, place),
            va="center",
            fontsize=12,
            color=_LINE,
            annotation_clip=False,
        )
    axes.set_yticks(places, [name.replace("_", " ") for name in names])
    axes.set_ylim(max(len(names), 4) - 0.5, -0.5)
    axes.set_xlim(0, 1.9 * max(breaking.max(), 1))
    axes.xaxis.set_major_locator(_few_ticks())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("cells")
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.13), ncols=2, frameon=False, fontsize=12)
    most = int(breaking.argmax())
    axes.set_title(f"{names[most].replace('_', ' ')} finds most: {breaking[most]:,} cells")


def _plain_numbers(axis: Any) -> None:
    """Spell the ticks of a logarithmic axis as people do, at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_minor_formatter(NullFormatter())


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, integer=True)


def _share(pct: float) -> str:
    return f"{pct:.3g}" if pct < 99.95 or pct == 100 else f"{pct:.2f}"


def _short(value: float | None) -> str:
    """Return a number in about three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
