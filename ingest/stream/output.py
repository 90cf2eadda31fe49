"""Where an operation writes, and that it does not take the place of what another input made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.errors import AlreadyExistsError, ConfigError, IngestError
from ingest.fetch.h5ad_open import open_h5ad
from ingest.stream.files import resolve_output_path, writing
from ingest.stream.storage import address_of_data

if TYPE_CHECKING:
    import os

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["MADE_FROM", "made_from", "no_folder", "output_for", "refuse_others", "refuse_same"]

MADE_FROM = "cell-ingest-made-from"
"""Attribute of the root: the address of the file that an operation read."""


def output_for(
    data: Any,
    file: OpenH5ad,
    *,
    suffix: str,
    output_path: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    data_name: str | None = None,
) -> Path:
    """Return the path of an output, given or named by what was done; a folder that is only named is made.

    Raises
    ------
    AlreadyExistsError
        No path was given, and what has that name was made from another file.
    ConfigError
        ``same-file``: the output is the input; ``no-output``: the input is remote, so it has no folder.
    """
    source = None if file.source.path is None else Path(address_of_data(data))
    if output_path is not None:
        output = Path(output_path)
    elif source is None and output_dir is None:
        raise no_folder(file.name)
    else:
        output = resolve_output_path(source or "", suffix=suffix, output_dir=output_dir, data_name=data_name)
        refuse_others(output, file)
    refuse_same(file, output)
    if output_path is None and output_dir is not None:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
    return output


def no_folder(name: str) -> ConfigError:
    """Return the error of a remote input, which has no folder to write to, and no output named."""
    hint = "output_path, or output_dir (-o, --output-dir)"
    return ConfigError(f"{name} is remote: say where to write", kind="no-output", hint=hint)


def refuse_same(file: OpenH5ad, output: str | os.PathLike[str]) -> None:
    """Raise ConfigError, ``same-file``, where the output is the input."""
    source, path = file.source.path, Path(output)
    if source is not None and path.exists() and path.samefile(source):
        raise ConfigError(f"{output} is the input itself", kind="same-file", hint="write to another path")


def refuse_others(
    output: Path, file: OpenH5ad, hint: str = "give output_path or data_name (-o, --data-name), or remove it"
) -> None:
    """Raise AlreadyExistsError where there is something at `output` that was not made from `file`."""
    if output.exists() and made_from(output) != file.source.address:
        other = made_from(output)
        made = f"was made from {other}, not" if other else "is there already, and not made"
        raise AlreadyExistsError(f"{output} {made} from {file.name}", hint=hint)


def made_from(path: Path) -> str | None:
    """Return the address of the file that `path` was made from, None where it does not say."""
    try:
        with open_h5ad(str(path)) as made:
            value = made.attribute(made.file["/"], MADE_FROM)
    except IngestError:
        return None
    return value if isinstance(value, str) else None
