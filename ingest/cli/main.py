"""The entry point: commands, errors as one readable line, exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ingest import __version__
from ingest.cli.after import gc, repair, status, verify
from ingest.cli.convert import convert
from ingest.cli.convert_genes import genes
from ingest.cli.convert_labels import labels, sort, standardize
from ingest.cli.demo import demo
from ingest.cli.estimate import estimate
from ingest.cli.hvg import hvg
from ingest.cli.index import index
from ingest.cli.log_lines import CommandLog
from ingest.cli.memmap import memmap
from ingest.cli.qc import qc
from ingest.cli.run import run
from ingest.cli.style import Group, origin_of
from ingest.errors import IngestError, TransientError, mask_secrets
from ingest.interrupt import sigterm_as_ctrl_c
from ingest.json_lines import json_lines_are_on, log_event
from ingest.thread_pool import leave_units

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cli", "main"]

_log = logging.getLogger(__name__)


@click.group(
    cls=Group,
    examples=(
        "python -m ingest demo",
        "python -m ingest index census --value-filter \"tissue == 'lung'\" -o lung.feather",
    ),
)
@click.version_option(__version__, prog_name="cell-ingest")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(*, debug: bool) -> None:
    """Carry single-cell counts from the Census, scBaseCount and h5ad files to chunks that are ready to train from.

    An index says which cells, `run` brings them into a folder, s3:// or gs:// prefix, and goes on where it stopped.
    """
    del debug  # looked at by main(), which sees the error


for _command in (demo, index, run, estimate, status, verify, repair, gc, hvg, qc, memmap, convert):
    cli.add_command(_command)
for _command in (sort, standardize, labels, genes):
    convert.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or bool(os.environ.get("CELL_INGEST_DEBUG"))
    arguments = [word for word in given if word != "--debug"]
    with sigterm_as_ctrl_c(), CommandLog(arguments) as log:
        code = _exit_code(arguments, log, debug=debug)
        log.end(code)
    sys.exit(code)


def _exit_code(arguments: list[str], log: CommandLog, *, debug: bool) -> int:
    try:
        code = cli.main(arguments, prog_name="python -m ingest", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        return 0
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "python -m ingest"
        source = f"{origin}: " if (origin := origin_of(error)) else ""
        _complain(source + error.format_message(), f"`{command} --help` says how", kind="usage")
        return 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        _complain("stopped at once", _after_a_stop(arguments))
        log.end(130)
        leave_units(130)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except IngestError as error:
        if debug:
            _show_traceback()
        again = "run the same command again" if isinstance(error, TransientError) else None
        where = {"kind": error.kind, "source": error.source, "chunk": error.chunk, "key": error.key}
        _complain(str(error), error.hint or again, **where)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 # whatever it is, it is said in a line, and where with --debug
        if debug:
            _show_traceback()
        message = mask_secrets(" ".join(f"{type(error).__name__}: {error}".split()))
        _complain(f"unforeseen: {message}", "with --debug it shows where; please report it", kind="unforeseen")
        return 1
    return code if isinstance(code, int) else 0


def _after_a_stop(arguments: list[str]) -> str:
    if arguments[:1] == ["convert"]:
        return "its output is whole or not there; run the same command again"
    return "run the same command to go on; what was committed is kept"


def _show_traceback() -> None:
    """Say where an error came from, with its causes: clients put requests into theirs, signatures and all."""
    if json_lines_are_on():
        log_event(_log, "traceback", mask_secrets(traceback.format_exc()), level=logging.ERROR)
        return
    click.echo(mask_secrets(traceback.format_exc()), err=True, nl=False)


def _complain(message: str, hint: str | None, **where: Any) -> None:
    if json_lines_are_on():
        log_event(_log, "error", message, level=logging.ERROR, hint=hint, **where)
        return
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"       {hint}", err=True)
