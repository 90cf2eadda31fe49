"""Our conversions: the Python call, bionemo-scdl's script under its own name, and the command on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.load.memmap import create_archive

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["convert"]


def convert(how: str, source: str, archive: str) -> None:
    """Convert a file, a folder of files, or chunks.

    Parameters
    ----------
    how
        ``call`` is the call, ``script`` the script, ``workers 2`` the command with so many Ray workers; with `` X``
        behind it, ``X`` is taken and not ``raw.X``.
    """
    taken = how.endswith(" X")
    word, *more = how.removesuffix(" X").split()
    flags = ["--use-X-not-raw"] if taken else []
    if word == "call":
        create_archive(source, archive, use_X_not_raw=taken)
    elif word == "script":
        _run_script(["--data-path", source, "--save-path", archive, *flags])
    else:
        _run_command([source, "-o", archive, "-d", *more, *flags])


def _run_script(arguments: list[str]) -> None:
    from ingest.cli.convert_scdl import main

    _succeed(lambda: main(arguments))


def _run_command(arguments: list[str]) -> None:
    from ingest.cli.main import main

    _succeed(lambda: main(["memmap", *arguments]))


def _succeed(run: Callable[[], int | None]) -> None:
    """Run what may end its process, and go on if it did so with code 0."""
    try:
        code = run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    if code:
        raise RuntimeError(f"ended with {code}")
