"""``python -m benchmarks``: measure, write benchmarks/results.json, docs/performance.md and its plot."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import write_report
from benchmarks.results import Results, machine_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.bench import Bench
    from benchmarks.values import Row

_ROOT = Path(__file__).resolve().parents[1]
_RESULTS = _ROOT / "benchmarks" / "results.json"
_ON_RAY = ("comparison", "dense", "density", "chunk_size", "memory", "scaling", "latency", "shuffle", "moto")
_SCRIPTS = ("planner", "driver", "resume", "scale")
_SECTIONS = (*_ON_RAY, "reading", "encoding", "encoding_h5", "hvg", *_SCRIPTS)
_WITH_PEERS = ("loading", "loading_first", "loading_workers", "loading_far", "memmap_convert", "memmap_rows")
"""Measured only by name: environments with others' loaders are installed for them."""
_ON_ONE_FILE = ("stream", "stream_dense")
"""Measured only by name: some GB of files are made for them in the user's cache."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, put it beside what was measured before, and write the report."""
    options = _parse(arguments)
    path = options.results or (Path(tempfile.gettempdir()) / "quick-results.json" if options.quick else _RESULTS)
    results = Results.read(path) if path.exists() and not options.quick else Results({}, {})
    if not options.report:
        results = _measure(options, results, path)
    if path == _RESULTS:
        write_report(results, _ROOT / "docs")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*_SECTIONS, *_WITH_PEERS, *_ON_ONE_FILE),
        help="these alone; the others' numbers stay",
    )
    parser.add_argument("--quick", action="store_true", help="a tiny Census and one round: does everything run?")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of what is compared")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="scratch, on the disk to measure; a temporary one unless said")
    parser.add_argument("--python312", type=Path, metavar="PATH", help="for annbatch; what is on PATH unless said")
    parser.add_argument("--results", type=Path, metavar="FILE", help="instead of benchmarks/results.json")
    parser.add_argument("--report", action="store_true", help="write the report again; measure nothing")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace, results: Results, path: Path) -> Results:
    wanted = tuple(options.only) if options.only else _SECTIONS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder)))
        results = Results(machine_facts(folder), results.sections)
        bench = _bench(stack, options, folder, wanted)
        for name in wanted:
            print(f"{name} …", file=sys.stderr, flush=True)
            start = time.perf_counter()
            rows = _runner(name)(bench)
            seconds = time.perf_counter() - start
            print(f"{name}: {len(rows)} rows in {seconds:.0f} s", file=sys.stderr, flush=True)
            results = results.with_section(name, rows, _command(options, name), seconds)
            results.write(path)  # after every section: what was measured is kept, whatever happens next
    print(path)
    return results


def _bench(stack: ExitStack, options: argparse.Namespace, folder: Path, wanted: Sequence[str]) -> Bench:
    from benchmarks.bench import Bench, connected_ray
    from benchmarks.census import FULL, TINY, bench_census
    from benchmarks.store import open_bench_store

    # The store comes first: Ray's workers inherit its credentials.
    store = stack.enter_context(open_bench_store("fast"))
    if set(wanted) & set(_ON_RAY):
        stack.enter_context(connected_ray(options.workers))
    repeats = 1 if options.quick else options.repeats
    census = bench_census(TINY if options.quick else FULL)
    bench = Bench(folder, census, store, options.workers, repeats, options.quick, options.python312)
    if set(wanted) & set(_ON_RAY):
        _warm_up(bench)
    return bench


def _warm_up(bench: Bench) -> None:
    """Make files that are not counted: compiled code is then in its cache, the Census in the page cache."""
    from benchmarks.ours import OurRun, measure_ours
    from ingest.settings import DEFAULT_CELLS_PER_CHUNK

    for density, size in ((0.1, bench.chunk_sizes[0]), (1.0, DEFAULT_CELLS_PER_CHUNK)):
        dest = bench.fresh_folder("warm-up")
        index = bench.selection(density).index
        measure_ours(OurRun(index, str(dest), size, bench.workers, bench.folder / "surveys"))
        shutil.rmtree(dest)


def _runner(name: str) -> Callable[[Bench], list[Row]]:
    from benchmarks import (
        comparison,
        dense,
        encoding,
        encoding_h5,
        hvg,
        loading,
        loading_far,
        memmap_convert,
        memmap_rows,
        reading,
        shuffle,
        stream,
        stream_dense,
        sweeps,
    )
    from benchmarks.scripts import run_script

    runners: dict[str, Callable[[Bench], list[Row]]] = {
        "comparison": comparison.run,
        "dense": dense.run,
        "density": sweeps.density,
        "chunk_size": sweeps.chunk_size,
        "memory": sweeps.memory,
        "scaling": sweeps.scaling,
        "latency": sweeps.latency,
        "shuffle": shuffle.run,
        "moto": comparison.run_on_moto,
        "reading": reading.run,
        "encoding": encoding.run,
        "encoding_h5": encoding_h5.run,
        "hvg": hvg.run,
        "loading": loading.run,
        "loading_first": loading.run_first,
        "loading_workers": loading.run_workers,
        "loading_far": loading_far.run,
        "memmap_convert": memmap_convert.run,
        "memmap_rows": memmap_rows.run,
        "stream": stream.run,
        "stream_dense": stream_dense.run,
    }
    return runners.get(name, lambda bench: run_script(name, quick=bench.quick))


def _command(options: argparse.Namespace, name: str) -> str:
    usual = vars(_parse([]))
    changed = {key: vars(options)[key] for key in ("repeats", "workers") if vars(options)[key] != usual[key]}
    words = ["python -m benchmarks --only", name, *(["--quick"] if options.quick else [])]
    return " ".join([*words, *(f"--{key} {value}" for key, value in changed.items())])


if __name__ == "__main__":
    sys.exit(main())
