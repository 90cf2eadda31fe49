"""The tables of streaming operations, and the ratios that were asked for, from the results alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import medians, ratios
from benchmarks.tables import count, spread, table

if TYPE_CHECKING:
    from benchmarks.results import Results
    from benchmarks.values import Row

__all__ = ["OPERATIONS", "dense_ratios", "dense_text", "growth", "operation_ratios", "stream_text"]

OPERATIONS = {
    "normalize": "normalise and log",
    "filter": "filter cells and genes",
    "to csc": "CSR to CSC",
    "to csr": "CSC to CSR",
    "dense to csr": "dense to CSR",
    "sort": "sort by perturbation",
}
"""What is done, in words."""


def operation_ratios(results: Results, operation: str, other: str, key: str = "seconds") -> list[float]:
    """Return another way's over ours by `key`, in every round."""
    rows = results.rows("stream", operation=operation)
    return _ratios([row for row in rows if row["cells"] == min(one["cells"] for one in rows)], other, key)


def growth(results: Results, operation: str) -> list[float]:
    """Return our memory with the longer file over that with the shorter, in every round."""
    rows = results.rows("stream", operation=operation, way="ours")
    lengths = sorted({int(row["cells"]) for row in rows})
    if len(lengths) < 2:
        return []
    short, long = ([row for row in rows if row["cells"] == length] for length in (lengths[0], lengths[-1]))
    return ratios(long, short, lambda row: float(row["peak_rss_mib"]))


def dense_ratios(results: Results, density: float, key: str = "cpu_seconds") -> list[float]:
    """Return reading twice over ours by `key`: how much of its speed ours has."""
    ours, twice = (results.rows("stream_dense", density=density, way=way) for way in ("ours", "read twice"))
    return ratios(twice, ours, lambda row: float(row[key]))


def stream_text(rows: list[Row]) -> str:
    """Return what operations come to."""
    lines = []
    for operation, words in OPERATIONS.items():
        for cells in sorted({row["cells"] for row in rows}):
            found = [row for row in rows if (row["operation"], row["cells"]) == (operation, cells)]
            for way in dict.fromkeys(row["way"] for row in found):
                group = [row for row in found if row["way"] == way]
                lines.append(
                    (
                        f"{words}, {count(cells)} cells: {way}",
                        f"{medians(group, 'seconds'):.2f}",
                        "" if way == "ours" else spread(_ratios(found, way, "seconds")),
                        f"{medians(group, 'work_cpu_seconds'):.2f}",
                        "" if way == "ours" else spread(_ratios(found, way, "work_cpu_seconds")),
                        count(medians(group, "peak_rss_mib")),
                        f"{medians(group, 'bytes') / 2**20:.1f}",
                    )
                )
    headers = ["", "s", "times ours", "CPU-s", "times ours", "peak MiB", "MiB written"]
    return f"{table(headers, lines)}\n\nX of 4,000 genes, 400 non-zeros a cell, gzip; every way wrote the same numbers."


def dense_text(rows: list[Row]) -> str:
    """Return what taking the non-zeros of dense blocks comes to."""
    lines = []
    for density in dict.fromkeys(row["density"] for row in rows):
        ours, twice = ([row for row in rows if (row["density"], row["way"]) == (density, way)] for way in _WAYS)
        times = (ratios(twice, ours, lambda row: float(row["seconds"])), ratios(twice, ours, _cpu))
        lines.append(
            (f"{density:.0%} not zero", *(f"{_speed(group):.1f}" for group in (ours, twice)), *map(spread, times))
        )
    headers = ["", "ours, GB a CPU-s", "reading twice", "of its speed", "by CPU-seconds"]
    return table(headers, lines)


_WAYS = ("ours", "read twice")


def _cpu(row: Row) -> float:
    return float(row["cpu_seconds"])


def _speed(group: list[Row]) -> float:
    return float(group[0]["bytes"]) / 1e9 / medians(group, "cpu_seconds")


def _ratios(rows: list[Row], other: str, key: str) -> list[float]:
    ours, others = ([row for row in rows if row["way"] == way] for way in ("ours", other))
    return ratios(others, ours, lambda row: float(row[key]))
