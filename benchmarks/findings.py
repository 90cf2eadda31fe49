"""What the rows come to: the ratios that were asked for, formed within one round each. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.memmap_report import PEER, SOURCES, conversion_ratios, row_ratios
from benchmarks.results import ratios
from benchmarks.stream_report import OPERATIONS, dense_ratios, growth, operation_ratios

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Results
    from benchmarks.values import Row

__all__ = ["Finding", "cpu_ratios", "encoding_ratios", "findings", "loading_ratios", "read_ratios", "seed_ratios"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One question and its answer in every round."""

    question: str
    values: list[float]
    least: float | None = None
    """Wanted: at least this."""
    most: float | None = None
    """Wanted: at most this."""
    wanted: str = ""
    """The same in words."""

    @property
    def met(self) -> bool | None:
        """Whether the median is what was wanted; None where nothing was measured or wanted."""
        if not self.values or (self.least is None and self.most is None):
            return None
        middle = median(self.values)
        return (self.least is None or middle >= self.least) and (self.most is None or middle <= self.most)


def seed_ratios(results: Results, size: int, section: str = "comparison") -> list[float]:
    """Return ours over the seed's way, cells a second, half of the cells at `size` a file."""
    return _of(results, section, "ours", "seed", size, _speed)


def read_ratios(results: Results, size: int, way: str = "read") -> list[float]:
    """Return ours over the bare read, cells a second, all cells to a folder."""
    return _of(results, "dense", "ours", way, size, _speed)


def cpu_ratios(results: Results, size: int) -> list[float]:
    """Return the workers' CPU-seconds over the sum of the stages measured alone."""
    return _of(results, "dense", "ours", "stages", size, _cpu)


def encoding_ratios(results: Results, size: int) -> list[float]:
    """Return how many times faster our encoder is than gzip by anndata."""
    return _of(results, "encoding", "write_h5ad", "ours", size, lambda row: float(row["seconds"]))


def loading_ratios(results: Results, one: str, other: str, form: str = "csr") -> list[float]:
    """Return one way of loading over another, cells a CPU-second, delivered in that form."""
    ones, others = (results.rows("loading", way=name, form=form) for name in (one, other))
    return ratios(ones, others, lambda row: float(row["rows_per_cpu_s"]))


def _loading_findings(results: Results) -> list[Finding]:
    compared = (
        ("annbatch's, lz4", "ours, lz4", "annbatch", 1.3),
        ("annbatch's, lz4, blocks of 32", "ours, lz4, blocks of 32", "annbatch, blocks of 32", 1.3),
        ("annbatch's, lz4, its blocks of 512", "ours, lz4, blocks of 512", "annbatch, blocks of 512", 1.3),
        ("scDataset's on gzip h5ad, lz4", "ours, lz4", "scDataset", 8),
        ("scDataset's on gzip h5ad, deflate", "ours, deflate", "scDataset", 3),
        ("AnnLoader's on gzip h5ad, lz4", "ours, lz4", "AnnLoader", 20),
        ("AnnLoader's on gzip h5ad, deflate", "ours, deflate", "AnnLoader", 8),
    )
    first = [float(row["first_batch_s"]) for row in results.rows("loading_first", way="ours, deflate, 100 files")]
    return [
        Finding(f"times the cells a CPU-second that are {what}", values, least=least, wanted=f"at least {least}")
        for what, one, other, least in compared
        if (values := loading_ratios(results, one, other))
    ] + (
        [Finding("seconds from opening 100 files to the first batch", first, most=2, wanted="under 2")] if first else []
    )


def _memmap_findings(results: Results) -> list[Finding]:
    found = []
    for source, what in SOURCES.items():
        clock = "process_s" if source == "files" else "seconds"  # of a script, all of the process is waited for
        faster, memory = (conversion_ratios(results, source, key) for key in (clock, "peak_bytes"))
        found += [
            Finding(f"times as fast as {PEER} converts {what}", faster, least=3, wanted="at least 3"),
            Finding(f"of {PEER}'s memory, converting that", [1 / one for one in memory], most=1, wanted="at most 1"),
        ]
    for way in ("ours, the same lines", "ours, `get_rows`"):
        for batch in (512, 64):
            what = f"{PEER}'s, {way.removeprefix('ours, ')}, batches of {batch}"
            times, memory = (row_ratios(results, way, batch, key) for key in ("rows_per_cpu_s", "peak_bytes"))
            found += [
                Finding(f"times the cells a CPU-second that are {what}", times, least=2, wanted="at least 2"),
                Finding("of its memory, in that way", memory, most=1, wanted="at most 1"),
            ]
    return [finding for finding in found if finding.values]


def _stream_findings(results: Results) -> list[Finding]:
    found = []
    for operation, words in OPERATIONS.items():
        for way, named in (("in memory", "anndata and scanpy in memory"), ("backed", "backed mode")):
            faster = operation_ratios(results, operation, way)
            found.append(Finding(f"times as fast as {named}: {words}", faster, least=1, wanted="at least 1"))
        grown = growth(results, operation)
        found.append(Finding(f"of its memory with ten times the cells: {words}", grown, most=1.1, wanted="at most 1.1"))
    for density in sorted({row["density"] for row in results.rows("stream_dense")}):
        what = f"of the speed of reading a dense block twice, by CPU-seconds, {density:.0%} not zero"
        found.append(Finding(what, dense_ratios(results, density), least=0.7, wanted="at least 0.7"))
    return [finding for finding in found if finding.values]


def findings(results: Results) -> list[Finding]:
    """Return every ratio and size that was asked for, with what was wanted."""
    kilobytes = {size: _bytes_per_cell(results, size) for size in (100, 5_000)}
    smaller = _of(results, "encoding", "ours", "write_h5ad", 5_000, lambda row: float(row["bytes"]))
    return [
        Finding(
            "times the seed's way, 100 cells a file", seed_ratios(results, 100), least=10, wanted="at least 10, aim 20"
        ),
        Finding(
            "times the seed's way, 5,000 cells a file", seed_ratios(results, 5_000), least=4, wanted="at least 4, aim 6"
        ),
        Finding(
            "of the bare read's speed, 5,000 cells a file",
            read_ratios(results, 5_000),
            least=0.65,
            wanted="at least 0.65",
        ),
        Finding(
            "of the bare read's speed, 25,000 cells a file",
            read_ratios(results, 25_000),
            least=0.65,
            wanted="at least 0.65",
        ),
        Finding(
            "of a bare read that keeps freed memory, 5,000 cells a file", read_ratios(results, 5_000, "tuned read")
        ),
        Finding(
            "of a bare read that keeps freed memory, 25,000 cells a file", read_ratios(results, 25_000, "tuned read")
        ),
        Finding(
            "CPU-seconds over the stages' sum, 5,000 cells a file",
            cpu_ratios(results, 5_000),
            most=1.15,
            wanted="at most 1.15",
        ),
        Finding(
            "CPU-seconds over the stages' sum, 25,000 cells a file",
            cpu_ratios(results, 25_000),
            most=1.15,
            wanted="at most 1.15",
        ),
        Finding(
            "times `write_h5ad(gzip)`, a file of 5,000 cells",
            encoding_ratios(results, 5_000),
            least=10,
            wanted="at least 10",
        ),
        Finding(
            "times `write_h5ad(gzip)`, a file of 100 cells",
            encoding_ratios(results, 100),
            least=10,
            wanted="at least 10",
        ),
        *(
            Finding(
                f"`hvg`'s CPU-seconds over decoding the chunks, {size:,} cells a file",
                _of(results, "hvg", "dispersion", "decode", size, _work_cpu),
                most=1.3,
                wanted="at most 1.3",
            )
            for size in (5_000, 25_000)
        ),
        *_loading_findings(results),
        *_memmap_findings(results),
        *_stream_findings(results),
        Finding("of its bytes, a file of 5,000 cells", smaller, most=1.0, wanted="at most 1"),
        Finding("kB a cell, 100 cells a file", kilobytes[100], most=11, wanted="at most 11"),
        Finding("kB a cell, 5,000 cells a file", kilobytes[5_000], most=4.5, wanted="at most 4.5"),
    ]


def _bytes_per_cell(results: Results, size: int) -> list[float]:
    return [row["bytes_per_cell"] / 1e3 for row in results.rows("comparison", way="ours", size=size)]


def _of(results: Results, section: str, way: str, other: str, size: int, value: Callable[[Row], float]) -> list[float]:
    ones, others = (results.rows(section, way=name, size=size) for name in (way, other))
    return ratios(ones, others, value)


def _speed(row: Row) -> float:
    return float(row["cells_per_s"])


def _work_cpu(row: Row) -> float:
    return float(row["work_cpu_seconds"])


def _cpu(row: Row) -> float:
    seconds = row["cpu_seconds"]
    return float(seconds["workers"] if "workers" in seconds else sum(seconds.values()))
