"""Our conversions: the Python call, bionemo-scdl's script under its own name, and the command on Ray."""

from __future__ import annotations

import sys

__all__ = ["convert"]


def convert(how: str, source: str, archive: str) -> None:
    """Convert a file, a folder of files, or chunks.

    Parameters
    ----------
    how
        ``convert`` is the call, ``script`` the script, ``workers 2`` the command with so many Ray workers; with `` X``
        behind it, ``X`` is taken and not ``raw.X``.
    """
    taken = how.endswith(" X")
    word, *more = how.removesuffix(" X").split()
    flags = ["--use-X-not-raw"] if taken else []
    if word == "convert":
        _call(source, archive, use_x_not_raw=taken)
    elif word == "script":
        _run_script(["--data-path", source, "--save-path", archive, *flags])
    else:
        _run_command([source, "-o", archive, "-d", *more, *flags])


def _call(source: str, archive: str, *, use_x_not_raw: bool) -> None:
    from ingest.load.memmap import convert as convert_sources

    convert_sources([source], archive, use_X_not_raw=use_x_not_raw)


def _run_script(arguments: list[str]) -> None:
    from ingest.cli.convert_scdl import main

    sys.argv = ["convert_h5ad_to_scdl", *arguments]
    main()


def _run_command(arguments: list[str]) -> None:
    from ingest.cli.main import main

    if code := main(["memmap", *arguments]):
        raise SystemExit(code)
