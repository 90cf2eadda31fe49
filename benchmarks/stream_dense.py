"""What is not zero of a dense block in memory, beside reading the block twice: the least that counting first takes.

Blocks of float32, 256 MB each and so in no cache, on as many threads as there are CPUs, in turn; CPU-seconds are those
of the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import in_child
from ingest.fetch.kernels import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["DENSITIES", "run"]

DENSITIES = (0.02, 0.05, 0.1, 0.2)
_CELLS, _GENES = 4_096, 16_000
_PART_BYTES = 2 << 20
"""As the engine's tiles."""


def run(bench: Bench) -> list[Row]:
    """Measure each density in a process of its own."""
    rounds = bench.repeats if bench.quick else 3 * bench.repeats
    rows: list[Row] = []
    for density in DENSITIES:
        found = in_child("benchmarks.stream_dense", str(density), rounds)
        rows += [{"density": density, **row} for row in found["rows"]]
    return rows


@compiled
def read_words(words: np.ndarray[Any, Any]) -> Any:
    """Read all of an array, and return what nobody can leave out."""
    found = words.dtype.type(0)
    for at in range(words.size):
        found |= words[at]
    return found


def main(arguments: list[str]) -> None:
    """Measure one density and print its rows."""
    from ingest.stream.matrix.filled import Filled
    from ingest.stream.matrix.work import Work

    density, rounds = arguments[arguments.index("--measure") + 1 :]
    block = _block(float(density))
    step = max(_PART_BYTES // block[0].nbytes, 1)
    parts = [block[start : start + step] for start in range(0, len(block), step)]
    filled = Filled(np.dtype(np.int32))

    with Work(os.cpu_count()) as work:
        ways: dict[str, Callable[[Any], object]] = {
            "read twice": lambda part: read_words(part.view(np.uint32).reshape(-1)),
            "ours": lambda part: filled.take(part)[0][-1],
        }
        rows = []
        for turn in range(-1, int(rounds)):
            for way, call in ways.items():
                passes = 2 if way == "read twice" else 1
                start, cpu = time.perf_counter(), time.process_time()
                for _ in range(passes):
                    for _ in work.pool.map(call, parts):
                        pass
                seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
                if turn >= 0:
                    row = {"round": turn, "way": way, "seconds": round(seconds, 5)}
                    rows.append({**row, "cpu_seconds": round(cpu_seconds, 5), "bytes": block.nbytes})
    print(json.dumps({"rows": rows}), flush=True)


def _block(density: float) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    block = np.zeros((_CELLS, _GENES), np.float32)
    filled = rng.random(block.shape, np.float32) < density
    block[filled] = rng.integers(1, 9, np.count_nonzero(filled))
    return block


if __name__ == "__main__":
    main(sys.argv)
