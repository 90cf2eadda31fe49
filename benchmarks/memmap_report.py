"""The tables of memory-mapped arrays, and the ratios that were asked for, from the results alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import medians, ratios
from benchmarks.tables import count, gib, spread, table

if TYPE_CHECKING:
    from benchmarks.results import Results
    from benchmarks.values import Row

__all__ = ["PEER", "SOURCES", "conversion_ratios", "convert_text", "row_ratios", "rows_text"]

PEER = "bionemo-scdl"
SOURCES = {
    "raw.h5ad": "one gzip file",
    "plain.h5ad": "one file, not compressed",
    "both.h5ad": "one gzip file, normalised X beside raw",
    "files": "ten gzip files",
    "chunks": "chunks that `run` wrote",
}
"""What is converted, in words."""


def conversion_ratios(results: Results, source: str, key: str = "seconds") -> list[float]:
    """Return bionemo-scdl's over ours by `key`, of each the first way for that source, in every round."""
    rows = results.rows("memmap_convert", source=source)
    ours = _of_first_way([row for row in rows if not _is_peer(row)])
    return ratios(_peer_rows(rows), ours, lambda row: float(row[key]))


def row_ratios(results: Results, way: str, batch: int, key: str = "rows_per_cpu_s") -> list[float]:
    """Return ours over bionemo-scdl's by `key`, in batches of so many cells, without workers."""
    ours, theirs = (results.rows("memmap_rows", way=name, batch=batch, workers=0) for name in (way, PEER))
    return ratios(ours, theirs, lambda row: float(row[key]))


def convert_text(rows: list[Row]) -> str:
    """Return what conversion comes to."""
    lines = []
    for group in _groups(rows, "source", "way"):
        theirs = _peer_rows([row for row in rows if row["source"] == group[0]["source"]])
        lines.append(
            (
                f"{SOURCES[group[0]['source']]}: {group[0]['way']}",
                f"{medians(group, 'seconds'):.2f}",
                spread(ratios(theirs, group, lambda row: float(row["seconds"])), 2),
                f"{medians(group, 'cpu_seconds'):.2f}",
                gib(medians(group, "peak_bytes")),
                gib(medians(group, "written_bytes")),
                f"{medians(group, 'process_s'):.2f}",
            )
        )
    headers = ["", "s", "times as fast", "CPU-s", "peak GiB", "GiB written", "s of the whole process"]
    cells, size = count(rows[0]["cells"]), gib(rows[0]["archive_bytes"])
    return f"{table(headers, lines)}\n\n{cells} cells, archives of {size} GiB, each with the same arrays."


def rows_text(rows: list[Row]) -> str:
    """Return what shuffled batches come to."""
    lines = []
    for group in _groups(rows, "batch", "workers", "way"):
        first = group[0]
        theirs = [row for row in rows if _is_peer(row) and _alike(row, first)]
        lines.append(
            (
                f"{first['batch']}, {first['way']}{_workers(first)}",
                count(medians(group, "rows_per_cpu_s")),
                spread(ratios(group, theirs, lambda row: float(row["rows_per_cpu_s"])), 2),
                count(medians(group, "rows_per_s")),
                gib(medians(group, "peak_bytes")),
                f"{medians(group, 'first_batch_s'):.2f}",
            )
        )
    headers = ["cells a batch", "cells/CPU-s", "times as many", "cells/s", "peak GiB", "open to first batch, s"]
    return f"{table(headers, lines)}\n\nIn every way, every cell came once."


def _groups(rows: list[Row], *keys: str) -> list[list[Row]]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(found.values())


def _is_peer(row: Row) -> bool:
    return str(row["way"]).startswith(PEER)


def _peer_rows(rows: list[Row]) -> list[Row]:
    return _of_first_way([row for row in rows if _is_peer(row)])


def _of_first_way(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["way"] == rows[0]["way"]]


def _alike(one: Row, other: Row) -> bool:
    return all(one[key] == other[key] for key in ("batch", "workers"))


def _workers(row: Row) -> str:
    return f", {row['workers']} workers" if row["workers"] else ""
