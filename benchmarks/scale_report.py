"""The table and the plot of docs/scale.md, made from what was simulated; the prose around them stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.scale import DAYS
from benchmarks.tables import number, table

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Results
    from benchmarks.values import Row

__all__ = ["draw_scale", "scale_text", "write_scale"]

BEGIN = "<!-- simulated: begin (python -m benchmarks --only scale writes what follows) -->"
END = "<!-- simulated: end -->"

_COLORS = {"quiet": "#1b6ca8", "spot": "#d1495b"}
_WORDS = {"quiet": "quiet", "spot": "spot: 5 % lost an hour, 2 % of units 4 times as slow"}


def write_scale(results: Results, docs: Path) -> None:
    """Renew the table and the plot in `docs`."""
    page = docs / "scale.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{page} holds no {BEGIN} … {END}")
    page.write_text(f"{before}{BEGIN}\n\n{scale_text(results)}\n\n{END}{after}", encoding="utf-8")
    draw_scale(results.rows("scale"), docs / "scale.png")


def scale_text(results: Results) -> str:
    """Return what was simulated, as Markdown."""
    section = results.sections["scale"]
    keys = list(section.rows[0])
    rows = [[number(row[key]) for key in keys] for row in section.rows]
    made = f"`{section.command}`, {section.when[:10]}, commit {section.commit}, {section.seconds:.0f} s"
    return f"{table(keys, rows)}\n\n{made}"


def draw_scale(rows: list[Row], path: Path) -> None:
    """Draw how long a Census takes, and how many hours are paid for, by the number of workers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (time, paid) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for day in DAYS:
        mine = [row for row in rows if row["case"] == day]
        workers = [row["workers"] for row in mine]
        time.plot(workers, [row["minutes"] for row in mine], "o-", color=_COLORS[day], label=_WORDS[day])
        paid.plot(workers, [row["paid hours"] for row in mine], "o-", color=_COLORS[day])
        if day == DAYS[0]:
            ideal = [row["minutes"] / row["times the ideal"] for row in mine]
            time.plot(workers, ideal, "--", color="grey", label="cells over speed over workers")
    time.set(xscale="log", yscale="log", xlabel="workers", ylabel="minutes", title=_title(rows))
    paid.set(xscale="log", ylim=(0, None), xlabel="workers", ylabel="hours of workers paid for", title="and cost more")
    time.legend(frameon=False, fontsize=8)
    for axes in (time, paid):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    time.yaxis.set_major_formatter("{x:g}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _title(rows: list[Row]) -> str:
    """Say from how many workers on more of them do not make a bad day's run half as long in proportion."""
    spot = [row for row in rows if row["case"] == DAYS[1]]
    good = [row["workers"] for row in spot if row["times the ideal"] < 1.5]
    enough = max(good, default=0)
    return f"Beyond {number(enough)} workers, more wait for the slowest" if enough else "All wait for the slowest"
