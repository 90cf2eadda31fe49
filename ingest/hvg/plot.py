"""hvg_analysis.png: four panels, each titled with what it shows."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ingest.genes import Genes
    from ingest.hvg.find import Found

__all__ = ["can_plot", "draw_hvgs"]

_OTHERS, _CHOSEN, _LINE = "#b8b8b8", "#c8452d", "#333333"
_NAMED = 15
_MOST_POINTS = 60_000
"""A cloud of more is the same cloud."""

_SCORES = {
    "dispersion": "dispersion (variance / mean)",
    "dispersions_norm": "dispersion against genes of like mean",
    "variances_norm": "standardised variance",
}
_VALUES = {"seurat": "normalised counts", "cell_ranger": "log1p of normalised counts"}


def can_plot() -> bool:
    """Say whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_hvgs(found: Found, genes: Genes, *, flavour: str) -> bytes:
    """Return the plot as PNG, 2000 x 1450; the same choice gives the same bytes with the same matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: dict[Any, Any] = {
        "font.size": 13,
        "axes.titlesize": 15,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
    }
    with rc_context(style):
        figure = Figure(figsize=(16, 11.6), dpi=125, layout=ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.25))
        ((cloud, rank), (detection, top)) = figure.subplots(2, 2)
        _draw_cloud(cloud, found, flavour)
        _draw_rank(rank, found)
        _draw_detection(detection, found)
        _draw_top(top, found, genes)
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _draw_cloud(axes: Any, found: Found, flavour: str) -> None:
    mean, dispersion, chosen = found.moments.mean, found.moments.dispersion, found.choice.genes
    others = np.setdiff1d(np.flatnonzero(dispersion > 0), chosen)
    if len(others) > _MOST_POINTS:
        others = others[:: -(-len(others) // _MOST_POINTS)]
    size = 6 if len(mean) > 5_000 else 14
    options = {"s": size, "linewidths": 0, "rasterized": True}
    axes.scatter(mean[others], dispersion[others], color=_OTHERS, label="other genes", **options)
    axes.scatter(mean[chosen], dispersion[chosen], color=_CHOSEN, label="chosen", **options)
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = _VALUES.get(flavour, "counts")
    axes.set_xlabel(f"mean of a gene over cells ({values})")
    axes.set_ylabel("dispersion: variance / mean")
    n_seen = int(np.count_nonzero(found.moments.detected))
    axes.set_title(f"{flavour} chooses {len(chosen):,} of the {n_seen:,} genes seen")
    axes.legend(loc="upper left", frameon=False, markerscale=3)


def _draw_rank(axes: Any, found: Found) -> None:
    score, chosen = found.choice.score, found.choice.genes
    ranked = np.sort(score[np.isfinite(score)])[::-1]
    ranks = np.arange(1, len(ranked) + 1)
    axes.plot(ranks, ranked, color=_OTHERS, lw=3, label="all candidates")
    mine = np.sort(score[chosen][np.isfinite(score[chosen])])[::-1]
    if found.choice.n_batches is None:
        axes.plot(ranks[: len(mine)], mine, color=_CHOSEN, lw=3, label="chosen")
    else:  # over several batches the mean score alone does not decide
        places = len(ranked) - np.searchsorted(ranked[::-1], mine, side="right") + 1
        axes.scatter(places, mine, color=_CHOSEN, s=12, zorder=3, linewidths=0, label="chosen")
    axes.set_xscale("log")
    if len(ranked) and ranked[-1] > 0:
        axes.set_yscale("log")
    axes.set_xlabel("rank of the gene")
    axes.set_ylabel(_SCORES[found.choice.score_name])
    if len(mine) and found.choice.n_batches is not None:
        axes.set_title(f"Over all batches the chosen have {_short(mine[-1])} to {_short(mine[0])}")
    elif len(mine):
        axes.set_title(f"The score falls from {_short(mine[0])} to {_short(mine[-1])} at gene {len(mine):,}")
    axes.legend(loc="upper right", frameon=False)


def _draw_detection(axes: Any, found: Found) -> None:
    pct = 100 * found.moments.detected / found.moments.n_cells
    chosen = np.zeros(len(pct), bool)
    chosen[found.choice.genes] = True
    seen = pct > 0
    edges = np.geomspace(max(100 / found.moments.n_cells, 1e-4) * 0.999, 100, 41)
    groups = [pct[chosen & seen], pct[~chosen & seen]]
    axes.hist(groups, bins=edges, stacked=True, color=[_CHOSEN, _OTHERS], label=["chosen", "other genes"])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("cells in which the gene is seen (%)")
    axes.set_ylabel("genes")
    if len(groups[0]):
        middle = float(np.median(groups[0]))
        axes.axvline(middle, color=_LINE, lw=1.5, ls="--")
        axes.set_title(f"The middle one of the chosen is seen in {_short(middle)} % of cells")
    axes.legend(loc="upper left", frameon=False)


def _draw_top(axes: Any, found: Found, genes: Genes) -> None:
    top = found.choice.genes[:_NAMED]
    score = found.choice.score[top]
    places = np.arange(len(top))
    axes.barh(places, np.where(np.isfinite(score), score, 0), color=_CHOSEN, height=0.7)
    pct = 100 * found.moments.detected[top] / found.moments.n_cells
    for place, value, share in zip(places, score, pct, strict=True):
        axes.annotate(
            f"{_short(value)}   in {_short(share)} % of cells",
            (value if np.isfinite(value) else 0, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
            color=_LINE,
        )
    names = [genes.names[gene] or genes.ids[gene] for gene in top.tolist()]
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_xlabel(_SCORES[found.choice.score_name])
    if names:
        axes.set_title(f"{', '.join(names[:3])} lead" if len(names) > 2 else f"{names[0]} leads")


def _short(value: float) -> str:
    """Return a number in about three digits."""
    if not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
