"""The tables and the picture of training loaders, from the results alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import medians
from benchmarks.tables import count, gib, table

if TYPE_CHECKING:
    from benchmarks.values import Row

__all__ = ["far_text", "first_text", "loading_text", "workers_text"]

_PICTURE = "![Cells a CPU-second, ours beside other loaders](loading.png)"
_FORMS = {"csr": "sparse", "dense": "dense float32"}


def loading_text(rows: list[Row]) -> str:
    """Return the comparison, sparse and dense."""
    forms = [form for form in _FORMS if any(row["form"] == form for row in rows)]
    return "\n\n".join([_PICTURE, *(_form_text(form, rows) for form in forms)])


def _form_text(form: str, rows: list[Row]) -> str:
    lines = [
        (
            group[0]["way"],
            _told(group[0]),
            count(medians(group, "rows_per_cpu_s")),
            count(medians(group, "rows_per_s")),
            gib(medians(group, "peak_bytes")),
            _checked(group[0]),
        )
        for group in _groups([row for row in rows if row["form"] == form])
    ]
    headers = ["cells/CPU-s", "cells/s", "peak GiB", "checked"]
    return table([f"delivered {_FORMS[form]}", "block, buffer", *headers], lines)


def workers_text(rows: list[Row]) -> str:
    """Return what DataLoader workers come to."""
    lines = [
        (
            f"{group[0]['way']}, {group[0]['workers']}",
            count(medians(group, "rows_per_s")),
            count(medians(group, "rows_per_cpu_s")),
            gib(medians(group, "peak_bytes")),
        )
        for group in _groups(rows)
    ]
    return table(["workers", "cells/s", "cells/CPU-s", "peak GiB, all processes"], lines)


def first_text(rows: list[Row]) -> str:
    """Return how long the first batch takes."""
    lines = [
        (group[0]["way"], *(f"{medians(group, key):.2f}" for key in ("first_batch_s", "import_s", "cold_s")))
        for group in _groups(rows)
    ]
    return table(["", "open to first batch, s", "imports before, s", "process start to first batch, s"], lines)


def far_text(rows: list[Row]) -> str:
    """Return what distance comes to."""
    lines = [
        (
            f"{row['delay_ms']} ms away, {row['way']}",
            count(row["rows_per_s"]),
            count(row["rows_per_cpu_s"]),
            f"{row['first_batch_s']:.2f}",
            f"{row['gets'] / (row['rows'] + row['checked']['cells']) * 1e3:.1f}",
        )
        for row in rows
    ]
    headers = ["", "cells/s", "cells/CPU-s", "open to first batch, s", "GETs for 1,000 cells"]
    return table(headers, lines)


def _told(row: Row) -> str:
    if row["buffer_cells"] <= 1:
        return "every cell by itself"
    return f"{row['block_cells']} x {row['buffer_cells'] // row['block_cells']}"


def _checked(row: Row) -> str:
    checked = row["checked"]
    return "every cell, once" if checked["whole"] else f"{count(checked['cells'])} cells"


def _groups(rows: list[Row]) -> list[list[Row]]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["way"], row["workers"]), []).append(row)
    return list(found.values())
