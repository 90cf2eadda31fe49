"""One way of loading, measured in a process of its own and in its own environment.

Open, take the first batch, go through an epoch that is checked and warms up, then through one that is measured. Prints
``measuring`` and ``measured`` around the latter, for whoever samples memory meanwhile, and last its row as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.loading_settings import LoadSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.loading_settings import Loader


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the row."""
    options = _parse(arguments)
    warnings.filterwarnings("ignore", "Sparse ", UserWarning)  # torch's, of its CSR tensors, which all ways deliver
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # more workers than cores: on purpose
    start = time.monotonic()
    module = importlib.import_module(f"benchmarks.{options.module}")
    imported, cpu = time.monotonic(), cpu_seconds()
    loader: Loader = module.open_loader(options.place, LoadSettings.parse(options.settings))
    batches = loader.epoch(0)
    first = next(batches)
    came = time.monotonic()
    row: dict[str, Any] = {
        "import_s": round(imported - start, 3),
        "first_batch_s": round(came - imported, 3),
        "first_batch_cpu_s": round(cpu_seconds() - cpu, 3),
        "cold_s": round(came - options.since, 3),
    }
    if not options.first:
        row["checked"] = _check(first, batches, options)
        row |= _measure(loader, options.batches)
    print(json.dumps(row), flush=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading_child", description=__doc__)
    parser.add_argument("module", help="of this package; it has open_loader")
    parser.add_argument("place", help="the data, as that way has it")
    parser.add_argument("settings", help="LoadSettings as JSON")
    parser.add_argument("--truth", type=Path, help="what has to come, from loading_matrix.Truth")
    parser.add_argument("--batches", type=int, help="of an epoch, the first so many; all unless said")
    parser.add_argument("--checked", type=int, help="of the first epoch, the same")
    parser.add_argument("--since", type=float, default=time.monotonic(), help="when this process was started")
    parser.add_argument("--first", action="store_true", help="end after the first batch")
    return parser.parse_args(arguments)


def _check(first: Any, batches: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Take the first epoch in, and close it where it is cut short: nothing of it goes on while the next is measured."""
    from benchmarks.loading_matrix import Delivered, Truth

    delivered = Delivered()
    limited = batches if options.checked is None else itertools.islice(batches, options.checked - 1)
    for batch in itertools.chain([first], limited):
        delivered.add(batch)
    batches.close()
    return delivered.check(Truth.read(options.truth), whole=options.checked is None)


def _measure(loader: Loader, limit: int | None) -> dict[str, Any]:
    from benchmarks.loading_matrix import n_rows

    print("measuring", flush=True)
    cpu, start, rows = cpu_seconds(), time.monotonic(), 0
    for batch in itertools.islice(loader.epoch(1), limit):
        rows += n_rows(batch)
    seconds, cpu = time.monotonic() - start, cpu_seconds() - cpu
    print("measured", flush=True)
    return {
        "rows": rows,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "rows_per_s": round(rows / seconds, 1),
        "rows_per_cpu_s": round(rows / cpu, 1),
    }


def cpu_seconds() -> float:
    """Return what this process and all that it started have used, whether these live or have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.ru_utime + one.ru_stime for one in used) + sum(one.user + one.system for one in living)


if __name__ == "__main__":
    sys.exit(main())
