"""``python -m benchmarks.planner --rows 100_000_000``: an index in or out of source order becomes a committed plan."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import Clock, in_child
from benchmarks.simulated import simulated_survey, write_index

if TYPE_CHECKING:
    from collections.abc import Sequence

_TARGET = {"seconds": 60.0, "peak_rss_mib": 2048}
"""For 100 M rows in source order."""

_ORDERS = ("sorted", "shuffled", "mixed")
"""Of the index; ``mixed``: one in source order becomes a plan in window order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the index, plan it in a process of its own, and print one line of JSON."""
    options = _parse(arguments)
    if options.measure:
        _measure(options.measure, options)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-planner-", dir=options.folder) as name:
        for order in options.order:
            folder = Path(name) / order
            folder.mkdir()
            write_index(folder / "index.feather", options.rows, shuffled=order == "shuffled")
            words = ["--rows", options.rows, "-c", options.cells_per_chunk, *(["--mix"] if order == "mixed" else [])]
            row = in_child("benchmarks.planner", folder, *words)
            print(json.dumps({"order": order, **row, "target": _TARGET if order == "sorted" else None}), flush=True)
            (folder / "index.feather").unlink()
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("-c", "--cells-per-chunk", type=int, default=1000)
    parser.add_argument("--order", nargs="+", choices=_ORDERS, default=list(_ORDERS))
    parser.add_argument("--folder", type=Path, help="scratch: some 100 bytes a row; a temporary one unless said")
    parser.add_argument("--mix", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _measure(folder: Path, options: argparse.Namespace) -> None:
    from ingest.cells import read_cells
    from ingest.committing import commit_plan
    from ingest.planning import draft_plan
    from ingest.preparing import divide_work
    from ingest.settings import DataSettings, WorkSettings
    from ingest.store.local import LocalStore

    clock, work = Clock(), WorkSettings(workers=16, scratch=folder)
    data = DataSettings(cells_per_chunk=options.cells_per_chunk, shuffle="window" if options.mix else "none")
    with clock.part("read_and_check"):
        cells = read_cells(folder / "index.feather", scratch=folder)
    with clock.part("draft"):
        surveys = [simulated_survey(int(cells.largest[0]) + 1)]
        draft = draft_plan(cells, surveys, data, work, created="", versions={}, recorded={})
    with clock.part("divide"):
        divided = divide_work(draft.profile, draft, (), work)
    with clock.part("commit"):
        opened = commit_plan(LocalStore(folder / "dest"), draft)
    index = opened.store.stat(opened.plan.files["index"]).size
    clock.report(rows=len(cells), chunks=opened.plan.n_chunks, units=len(divided.units), index_mib=round(index / 2**20))


if __name__ == "__main__":
    raise SystemExit(main())
