"""The tables of docs/performance.md, made from the results and put between its markers; the prose around them stays."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from benchmarks.findings import findings
from benchmarks.loading_report import far_text, first_text, loading_text, workers_text
from benchmarks.memmap_report import convert_text, rows_text
from benchmarks.results import medians, ratios
from benchmarks.stream_report import dense_text, stream_text
from benchmarks.tables import count, gib, kilobytes, number, spread, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.results import Results
    from benchmarks.values import Row

__all__ = ["BEGIN", "END", "report_text", "with_report", "write_report"]

BEGIN = "<!-- measured: begin (make bench writes what follows) -->"
END = "<!-- measured: end -->"
_READ = {
    "tiles": "ours, rows out of stored tiles",
    "tiledb": "ours, rows through TileDB",
    "read": "TileDB alone, freed memory kept, tables dropped",
}
_WAYS = {
    "seed": "the seed's way",
    "ours": "ours",
    "read": "bare read",
    "tuned read": "bare read, freed memory kept",
    "write_h5ad": "`write_h5ad(gzip)`",
    "create_dataset": "`create_dataset(gzip)`",
}


_HVG_WAYS = {
    "decode": "decoding alone",
    "dispersion": "`hvg`",
    "seurat": "`hvg --flavour seurat`, two passes",
    "seurat_v3": "`hvg --flavour seurat_v3`, two passes",
    "scanpy seurat": "scanpy in memory, seurat",
    "scanpy seurat_v3": "scanpy in memory, seurat_v3",
    "backed": "dispersion by hand, backed file",
}


def write_report(results: Results, docs: Path) -> None:
    """Renew the tables and the plot in `docs`."""
    from benchmarks.loading_plot import draw_loading  # matplotlib takes its time
    from benchmarks.plot import draw
    from benchmarks.scale_report import write_scale

    page = docs / "performance.md"
    page.write_text(with_report(page.read_text(encoding="utf-8"), report_text(results)), encoding="utf-8")
    if results.rows("comparison"):
        draw(results, docs / "performance.png")
    if results.rows("scale"):
        write_scale(results, docs)
    if results.rows("loading"):
        draw_loading(results, docs / "loading.png")


def with_report(page: str, report: str) -> str:
    """Return `page` with `report` between its markers.

    Raises
    ------
    ValueError
        The page does not hold both markers once, in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page holds no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{report.strip()}\n\n{END}{after}"


def report_text(results: Results) -> str:
    """Return everything measured, as Markdown."""
    parts = [_in_short(results), _machine(results)]
    for name, (title, body) in _PARTS.items():
        section = results.sections.get(name)
        if section is None or not section.rows:
            continue
        made = f"`{section.command}`, {section.when[:10]}, commit {section.commit}, {section.seconds:.0f} s"
        parts.append(f"### {title}\n\n{body(list(section.rows))}\n\n{made}")
    return "\n\n".join(parts)


def _in_short(results: Results) -> str:
    rows = [
        (one.question, spread(one.values), one.wanted, {True: "yes", False: "**no**", None: "-"}[one.met])
        for one in findings(results)
    ]
    return "### In short\n\n" + table(["ours is …", "median (least to most)", "wanted", "met"], rows)


def _machine(results: Results) -> str:
    facts = results.machine
    if not facts:
        return ""
    return (
        f"Measured on {facts['cpus']} cores ({facts['cpu_model']}), {facts['memory_gib']} GiB of memory, "
        f"{facts['filesystem']} on a local disk, {facts['system']}, Python {facts['python']}."
    )


def _groups(rows: list[Row], *keys: str) -> list[tuple[Row, list[Row]]]:
    """Return the rows of every combination of `keys`, in order of appearance, each with its first."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return [(group[0], group) for group in found.values()]


def _per_thousand(rows: list[Row], who: str) -> str:
    values = [row["cpu_seconds"][who] * 1e3 / row["cells"] for row in rows if who in row["cpu_seconds"]]
    return f"{median(values):.3g}" if values else "-"


def _requests(row: Row) -> str:
    return ", ".join(f"{kind} {count(n)}" for kind, n in sorted(row["requests"].items())) or "-"


def _comparison(rows: list[Row]) -> str:
    lines = []
    for first, group in _groups(rows, "size", "way"):
        chunks = f"{first['chunks']} of {first['of_chunks']}" if "of_chunks" in first else str(first["chunks"] or "-")
        lines.append(
            (
                f"{count(first['size'])}, {_WAYS[first['way']]}",
                chunks,
                count(medians(group, "cells_per_s")),
                f"{medians(group, 'hours_per_million'):.4f}",
                _per_thousand(group, "workers"),
                _per_thousand(group, "driver"),
                _per_thousand(group, "store"),
                kilobytes(medians(group, "bytes_per_cell")) if first["chunks"] else "-",
                _requests(first),
                gib(medians(group, "peak_rss_bytes")),
            )
        )
    headers = ["cells a file", "files", "cells/s", "h per 1 M", "worker CPU", "driver CPU", "store CPU", "kB a cell"]
    return (
        f"{table([*headers, 'requests', 'peak GiB'], lines)}\n\n"
        "CPU in seconds for 1,000 cells, all workers together. The bare read's cells are those it reads, selected or "
        "not: with half of the cells selected, nobody who reads so can deliver more than half as many a second.\n\n"
        + _stages_of(rows)
    )


def _stages_of(rows: list[Row]) -> str:
    ours = [row for row in rows if row["way"] == "ours"]
    stages = sorted({stage for row in ours for stage in row["stage_seconds"]})
    lines = [
        (
            count(first["size"]),
            *(f"{median(row['stage_seconds'].get(stage, 0.0) for row in group):.2f}" for stage in stages),
            f"{medians(group, 'seconds'):.2f}",
        )
        for first, group in _groups(ours, "size")
    ]
    return "Seconds by stage as the run records them, summed over workers:\n\n" + table(
        ["cells a file", *stages, "wall"], lines
    )


def _dense(rows: list[Row]) -> str:
    lines = [
        (
            f"{count(first['size'])}, {_WAYS[first['way']]}",
            count(medians(group, "cells_per_s")),
            f"{median(row['cpu_seconds']['workers'] for row in group):.2f}",
            gib(medians(group, "peak_rss_bytes")),
        )
        for first, group in _groups([row for row in rows if row["way"] != "stages"], "size", "way")
    ]
    alone = [row for row in rows if row["way"] == "stages"]
    stages = list(alone[0]["cpu_seconds"]) if alone else []
    sums = [
        (
            count(first["size"]),
            *(f"{median(row['cpu_seconds'][stage] for row in group):.2f}" for stage in stages),
            f"{median(sum(row['cpu_seconds'].values()) for row in group):.2f}",
        )
        for first, group in _groups(alone, "size")
    ]
    return (
        table(["cells a file", "cells/s", "worker CPU-s", "peak GiB"], lines)
        + "\n\nCPU-seconds of each stage by itself, one process, one thread, the same cells:\n\n"
        + table(["cells a file", *stages, "sum"], sums)
    )


def _encoding(rows: list[Row]) -> str:
    lines = [
        (
            f"{count(first['size'])}, {_WAYS[first['way']]}",
            f"{medians(group, 'seconds'):.4f}",
            f"{medians(group, 'cpu_seconds'):.4f}",
            count(first["bytes"]),
            kilobytes(first["bytes_per_cell"]),
            f"{first['bytes_per_nnz']:.2f}",
        )
        for first, group in _groups(rows, "size", "way")
    ]
    return table(["cells in the file", "s", "CPU-s", "bytes", "kB a cell", "bytes a non-zero"], lines)


def _reading(rows: list[Row]) -> str:
    lines = [
        (
            f"{first['place']}, {_READ[first['way']]}",
            count(medians(group, "cells_per_s")),
            f"{medians(group, 'cpu_ns_per_entry'):.1f}",
        )
        for first, group in _groups(rows, "place", "way")
    ]
    return table(["", "cells/s", "CPU-ns a non-zero"], lines)


def _hvg(rows: list[Row]) -> str:
    lines = [
        (
            f"{count(first['size'])}, {_HVG_WAYS[first['way']]}",
            f"{medians(group, 'seconds'):.2f}",
            f"{medians(group, 'work_cpu_seconds'):.2f}",
            f"{1e9 * medians(group, 'work_cpu_seconds') / first['nnz']:.1f}",
            gib(medians(group, "peak_rss_mib") * 2**20),
        )
        for first, group in _groups(rows, "size", "way")
    ]
    return (
        table(["cells a file", "s", "CPU-s", "CPU-ns a non-zero", "peak GiB"], lines)
        + "\n\nAll cells, 2,000 genes chosen, one process; reading the files is part of every time. scanpy's function "
        "takes no backed file: what its users write instead adds up slices in float64, not exactly, here of one file "
        "that is not compressed and so needs no inflating."
    )


def _shuffle(rows: list[Row]) -> str:
    lines = [
        (
            "source order" if first["window"] is None else f"windows of {count(first['window'])}",
            count(medians(group, "cells_per_s")),
            f"{median(_worker_cpu(row) for row in group):.2f}",
            spread(ratios(group, [row for row in rows if row["window"] is None], _worker_cpu)),
            gib(medians(group, "peak_rss_bytes")),
            gib(first["projected_bytes"]),
            kilobytes(medians(group, "bytes_per_cell")),
            *_bits(first, rows),
        )
        for first, group in _groups(rows, "window")
    ]
    headers = ["", "cells/s", "worker CPU-s", "times source order's", "peak GiB", "projected GiB", "kB a cell"]
    mixing = next((row["mixing"] for row in rows if "mixing" in row), None)
    whole = "" if mixing is None else f", {mixing['whole_bits']:.2f} in all cells together"
    return (
        table([*headers, "bits a chunk", "least"], lines)
        + f"\n\nFiles of {count(rows[0]['size'])} cells. Bits: entropy of `dataset_id` in a file{whole}."
    )


def _worker_cpu(row: Row) -> float:
    """Return what the work cost: on a machine that others use, wall time says less."""
    return float(row["cpu_seconds"]["workers"])


def _bits(row: Row, rows: list[Row]) -> tuple[str, str]:
    """Return mean and least entropy of a chunk; source order's is what the others compared themselves with."""
    mixing = row.get("mixing") or next((other["mixing"] for other in rows if "mixing" in other), None)
    if mixing is None:
        return "-", "-"
    bits = mixing["before" if row["window"] is None else "after"]
    return f"{bits['mean_bits']:.2f}", f"{bits['min_bits']:.2f}"


def _varied(**labels: str) -> Callable[[list[Row]], str]:
    """Return what shows rows by the keys that were varied."""

    def body(rows: list[Row]) -> str:
        lines = [
            (
                ", ".join([*(number(row[key]) for key in labels), _WAYS[row["way"]]]),
                count(row["cells_per_s"]),
                f"{row['seconds']:.2f}",
                f"{row['cpu_seconds']['workers']:.2f}",
                kilobytes(row["bytes_per_cell"]) if row["chunks"] else "-",
                gib(row["peak_rss_bytes"]),
            )
            for row in rows
        ]
        return table([", ".join(labels.values()), "cells/s", "s", "worker CPU-s", "kB a cell", "peak GiB"], lines)

    return body


def _memory(rows: list[Row]) -> str:
    lines = [
        (
            f"{count(row['size'])}, {gib(row['memory_bytes'])}",
            gib(row["projected_bytes"]) if "projected_bytes" in row else "refused",
            gib(row["peak_rss_bytes"]) if "peak_rss_bytes" in row else "-",
            f"{row['projected_bytes'] / row['peak_rss_bytes']:.2f}" if "peak_rss_bytes" in row else "-",
            count(row["cells_per_s"]) if "cells_per_s" in row else "-",
        )
        for row in rows
    ]
    headers = ["cells a file, `--memory` in GiB", "projected GiB", "peak GiB", "projected / peak", "cells/s"]
    return table(headers, lines)


def _printed(rows: list[Row]) -> str:
    """Return the rows of a script of its own: a table for each set of keys."""
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        parts.setdefault(tuple(row), []).append(row)
    return "\n\n".join(
        table(keys, [[number(row[key]) for key in keys] for row in part]) for keys, part in parts.items()
    )


_PARTS: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "comparison": ("Half of the cells, to one S3 look-alike", _comparison),
    "dense": ("All cells, to a folder on the local disk", _dense),
    "reading": ("Reading alone, one thread", _reading),
    "encoding": ("Encoding alone", _encoding),
    "encoding_h5": ("Encoding dense chunks (`--format h5`) alone", _encoding),
    "hvg": ("Highly variable genes", _hvg),
    "loading": ("Training loaders, shuffled batches of 512", loading_text),
    "loading_workers": ("Training loaders with DataLoader workers, sparse", workers_text),
    "loading_first": ("Time to the first batch, a process just started", first_text),
    "loading_far": ("Loading from a bucket, sparse", far_text),
    "memmap_convert": ("Conversion into memory-mapped arrays", convert_text),
    "memmap_rows": ("Shuffled batches out of memory-mapped arrays", rows_text),
    "stream": ("Operations on one h5ad, file to file", stream_text),
    "stream_dense": ("What is not zero of a dense block in memory", dense_text),
    "density": ("Share of the cells selected", _varied(density="share")),
    "chunk_size": ("Cells a file", _varied(size="cells a file")),
    "scaling": ("Workers, all cells to a folder", _varied(workers="workers")),
    "latency": ("Latency of every request to DEST", _varied(size="cells a file", latency_ms="ms more a request")),
    "memory": ("Memory of a worker, all cells to a folder", _memory),
    "shuffle": ("Mixed chunks, all cells to a folder", _shuffle),
    "moto": ("The same against moto, one round", _comparison),
    "planner": ("Planning", _printed),
    "driver": ("Driving", _printed),
    "resume": ("Resuming", _printed),
}
