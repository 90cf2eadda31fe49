"""Genes as a person names them: a list of ids, or a file of them."""

from __future__ import annotations

from pathlib import Path

from ingest.errors import ConfigError

__all__ = ["gene_ids"]


def gene_ids(text: str, *, option: str) -> tuple[str, ...]:
    """Read ``ID,ID`` or ``@file`` with ids separated by commas or white space and comments after ``#``.

    Parameters
    ----------
    option
        What holds it, for messages.

    Raises
    ------
    ConfigError
        The file cannot be read, or there is no id.
    """
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{option}: cannot read {text[1:]} ({error})", kind="bad-gene-file") from error
        text = "\n".join(line.split("#", 1)[0] for line in lines)
    ids = tuple(text.replace(",", " ").split())
    if not ids:
        raise ConfigError(f"{option} holds no gene id", kind="bad-gene-file")
    return ids
