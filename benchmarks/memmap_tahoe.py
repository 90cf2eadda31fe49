"""``python -m benchmarks.memmap_tahoe FOLDER``: convert a folder of h5ad files and train from it, beside bionemo-scdl.

Made for Tahoe-100M, whose plates are h5ad files, and good for any folder of them. Each library converts the whole
folder by its convert_h5ad_to_scdl, in a process of its own, reading from the disk; the two archives are compared byte
for byte; then each gives shuffled batches for so many seconds. bionemo-scdl gets an environment of its own in the
user's cache, unless --python names one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.loading import watched
from benchmarks.loading_env import peer_python
from benchmarks.loading_settings import LoadSettings
from benchmarks.memmap_convert import PEER_PYTHON, files_of, measure_conversion
from benchmarks.memmap_data import ARRAYS
from benchmarks.memmap_folder import FolderSurvey
from benchmarks.tables import count, gib, number, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.values import Row

__all__ = ["main"]

_CONVERSIONS = {"theirs": ("bionemo-scdl", "memmap_scdl"), "ours": ("ours", "memmap_ours")}
_BATCHES = (
    ("theirs", "bionemo-scdl", "loading_scdl"),
    ("ours", "ours, the same lines", "memmap_lines"),
    ("ours", "ours, `get_rows`", "memmap_get_rows"),
)
_PIECE_BYTES = 1 << 26
_EXAMPLES = """\
examples:
  python -m benchmarks.memmap_tahoe /data/tahoe --scratch /fast/disk
  python -m benchmarks.memmap_tahoe /data/tahoe --scratch /fast/disk --with ours --seconds 300 --cold --keep
  python -m benchmarks.memmap_tahoe --archive /fast/disk/archive-ours      (batches alone, out of what is there)

An archive has 6 or 8 bytes for every stored entry. bionemo-scdl wants room for two: it makes one of each file first.
Tahoe-100M is in gs://arc-ctc-tahoe100/2025-02-25: 14 plates, a file each.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, compare, go through batches, and print a table of each."""
    options = _parse(arguments)
    python = {"ours": Path(sys.executable), "theirs": _peer_python(options)}
    archives = {who: options.archive or options.scratch / f"archive-{who}" for who in options.libraries}
    if not options.archive:
        _refuse_existing(archives)
    rows: dict[str, list[Row]] = {}
    try:
        if not options.archive:
            rows["conversion"] = _convert(options, archives, python)
            print(_conversion_table(rows["conversion"]), end="\n\n", flush=True)
        if options.seconds:
            rows["batches"] = _go_through(options, archives, python)
            print(_batches_table(rows["batches"]), flush=True)
    except RuntimeError as error:
        raise SystemExit(f"error: {error}") from error
    finally:
        if not (options.keep or options.archive):
            for archive in archives.values():
                shutil.rmtree(archive, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memmap_tahoe",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?", help="of h5ad files, however deep")
    add("--scratch", type=Path, metavar="DIR", help="where archives are made")
    add("--archive", type=Path, metavar="DIR", help="one that is there, instead of FOLDER: nothing is converted")
    add(
        "--with",
        dest="libraries",
        nargs="+",
        choices=tuple(_CONVERSIONS),
        default=list(_CONVERSIONS),
        help="default both",
    )
    add("--take", choices=("raw", "X"), help="raw.X or X; what the first file has unless said, raw.X before X")
    add("--batch", type=int, default=512, metavar="CELLS", help="of a batch (%(default)s)")
    add("--workers", type=int, default=0, metavar="N", help="of the DataLoader (%(default)s)")
    add("--seconds", type=float, default=60, metavar="S", help="of batches in each way, 0 for none (%(default)s)")
    add(
        "--cold",
        action="store_true",
        help="drop the archive from the page cache before each way of batches",
    )
    add("--keep", action="store_true", help="leave the archives")
    add("--python", type=Path, metavar="PATH", help="of an environment with bionemo-scdl, torch and psutil")
    add("--json", type=Path, metavar="FILE", help="for all figures")
    options = parser.parse_args(arguments)
    if (options.folder is None) == (options.archive is None):
        parser.error("either FOLDER or --archive")
    if options.folder and not options.scratch:
        parser.error("--scratch DIR says where archives are made")
    return options


def _peer_python(options: argparse.Namespace) -> Path:
    if options.python or "theirs" not in options.libraries:
        return options.python or Path(sys.executable)
    return peer_python(PEER_PYTHON, Path(sys.executable))


def _convert(options: argparse.Namespace, archives: dict[str, Path], python: dict[str, Path]) -> list[Row]:
    survey = FolderSurvey.of(options.folder, options.take)
    _say(survey.text())
    options.scratch.mkdir(parents=True, exist_ok=True)
    survey.check_room(options.scratch, len(archives) + ("theirs" in archives))
    os.environ["TMPDIR"] = str(options.scratch)  # where bionemo-scdl's script makes an archive of each file first
    rows, how = [], "script" if survey.raw else "script X"
    for who, archive in archives.items():
        name, module = _CONVERSIONS[who]
        _say(f"{name} converts …")
        _drop(options.folder)
        row = measure_conversion(python[who], module, how, options.folder, archive)
        rows.append({"way": name, "cells": survey.cells, **row})
    if len(archives) > 1:
        _compare(*archives.values())
    return rows


def _refuse_existing(archives: dict[str, Path]) -> None:
    for archive in archives.values():
        if archive.exists():
            raise SystemExit(f"error: {archive} is there already (--archive {archive} goes through it)")


def _compare(one: Path, other: Path) -> None:
    """Compare two archives' arrays.

    Raises
    ------
    SystemExit
        They differ.
    """
    for name in ARRAYS:
        with (one / name).open("rb") as mine, (other / name).open("rb") as yours:
            pieces = iter(lambda: (mine.read(_PIECE_BYTES), yours.read(_PIECE_BYTES)), (b"", b""))
            if any(piece != other_piece for piece, other_piece in pieces):
                raise SystemExit(f"error: {one / name} and {other / name} differ")
    _say("the two archives have the same arrays, byte for byte")


def _go_through(options: argparse.Namespace, archives: dict[str, Path], python: dict[str, Path]) -> list[Row]:
    settings = LoadSettings(block_cells=1, buffer_cells=1, batch_cells=options.batch, workers=options.workers)
    rows = []
    for who, name, module in _BATCHES:
        if who not in archives or (options.workers and module == "memmap_get_rows"):
            continue
        _say(f"{name}: batches of {options.batch} for {options.seconds:g} s …")
        if options.cold:
            _drop(archives[who])
        words = [str(python[who]), "-m", "benchmarks.memmap_epoch", module, str(archives[who]), settings.text()]
        row, peak_bytes = watched([*words, str(options.seconds)], {})
        rows.append({"way": name, **row, "peak_bytes": peak_bytes})
    return rows


def _drop(folder: Path) -> None:
    """Have the page cache forget its files."""
    os.sync()
    for path in files_of(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _conversion_table(rows: list[Row]) -> str:
    lines = [
        (
            row["way"],
            number(row["seconds"]),
            number(rows[0]["seconds"] / row["seconds"]),
            count(row["cells"] / row["seconds"]),
            number(row["cpu_seconds"]),
            gib(row["peak_bytes"]),
            gib(row["written_bytes"]),
        )
        for row in rows
    ]
    headers = ["conversion", "s", f"times {rows[0]['way']}'s speed", "cells/s", "CPU-s", "peak GiB", "GiB written"]
    return table(headers, lines)


def _batches_table(rows: list[Row]) -> str:
    lines = [
        (
            row["way"],
            count(row["cells_per_cpu_s"]),
            number(row["cells_per_cpu_s"] / rows[0]["cells_per_cpu_s"]),
            count(row["cells_per_s"]),
            gib(row["peak_bytes"]),
            f"{row['first_batch_s']:.2f}",
            count(row["cells"]) + (", an epoch" if row["whole"] else ""),
        )
        for row in rows
    ]
    times = f"times {rows[0]['way']}'s"
    return table(["shuffled batches", "cells/CPU-s", times, "cells/s", "peak GiB", "first batch, s", "cells"], lines)


def _say(text: Any) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
