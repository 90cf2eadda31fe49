"""``convert_h5ad_to_scdl``: bionemo-scdl's script, with its flags, over this project's conversion."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.memmap.convert.opening import ReadOptions
    from ingest.load.memmap.convert.plan import ConversionPlan

__all__ = ["main"]

_DTYPES = ("uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert_h5ad_to_scdl",
        description="Convert all h5ad files below a folder, sorted, into one memory-mapped archive, as the script of "
        "bionemo-scdl does. `python -m ingest memmap` does more: datasets, buckets, several machines.",
    )
    add = parser.add_argument
    add("--num-workers", "--num_workers", type=int, default=4, help="Files converted at a time [4].")
    add("--use-mp", "--use_mp", action="store_true", help="Workers are processes, not threads [False].")
    add("--data-path", "--data_path", required=True, help="A folder of h5ad files, at any depth.")
    add("--save-path", "--save_path", required=True, help="Where the archive goes; there must be nothing yet.")
    add("--data-dtype", "--data_dtype", help=f"Of stored values: {', '.join(_DTYPES)} [float32].")
    add(
        "--paginated-load-cutoff",
        "--paginated_load_cutoff",
        type=int,
        default=10_000,
        help="Accepted and not needed: every file is read in bounded memory.",
    )
    add(
        "--load-block-row-size",
        "--load_block_row_size",
        type=int,
        default=1_000_000,
        help="Accepted and not needed, likewise.",
    )
    add("--use-X-not-raw", "--use_X_not_raw", dest="use_x", action="store_true", help="Take X, not raw.X [False].")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, and exit with a code: 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    from ingest.errors import IngestError
    from ingest.thread_pool import leave_units

    given = _parser().parse_args(arguments)
    try:
        sys.exit(_convert(given))
    except IngestError as error:
        _complain(error.message, error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("stopped at once", "run the same command to go on; what was finished is kept")
        leave_units(130)
        sys.exit(130)


def _convert(given: argparse.Namespace) -> int:
    from ingest.cli.memmap import ConvertDisplay, note_losses, say_archive, say_plan
    from ingest.interrupt import Interrupt
    from ingest.load.memmap.convert.api import local_pool
    from ingest.load.memmap.convert.opening import ReadOptions
    from ingest.load.memmap.convert.run import find_finished, run_conversion

    options = ReadOptions(use_x=given.use_x)
    plan = _plan(given, options)
    say_plan(plan, given.save_path)
    with ConvertDisplay(plan) as display, Interrupt() as interrupt:
        made = find_finished(given.save_path, plan) or run_conversion(
            plan,
            given.save_path,
            options,
            local_pool("processes" if given.use_mp else "threads"),
            display,
            workers=given.num_workers,
            allow_lossy=True,
            stop_requested=lambda: interrupt.requested,
        )
    note_losses(made)
    return say_archive(made)


def _plan(given: argparse.Namespace, options: ReadOptions) -> ConversionPlan:
    from ingest.errors import ConfigError, SourceError
    from ingest.load.memmap.convert.sources import h5ads_below
    from ingest.load.memmap.convert.survey import draft_plan

    files = h5ads_below(Path(given.data_path))
    if not files:
        raise ConfigError(f"There are no h5ad files in {given.data_path}.", kind="no-such-source")
    plan = draft_plan(files, options, data_dtype=given.data_dtype)
    for source in plan.sources:
        if not source.facts.n_entries:
            said = "n_elements is set to 0. It must be positive to create CSR matrices."
            raise SourceError(f"Error in processing file {source.facts.label}: {said}", kind="nothing-stored")
    return plan


def _complain(message: str, hint: str | None) -> None:
    print(f"error: {message}" + (f"\n       {hint}" if hint else ""), file=sys.stderr)  # noqa: T201 # the script's voice
