"""Genes as a person names them: a list of ids, or a file of them."""

from __future__ import annotations

from ingest.errors import ConfigError
from ingest.named_files import read_text

__all__ = ["gene_ids"]


def gene_ids(text: str, *, option: str, endpoint_url: str | None = None) -> tuple[str, ...]:
    """Read ``ID,ID`` or ``@file``, or ``@s3://…``: ids separated by commas or white space, comments after ``#``.

    Parameters
    ----------
    option
        What holds it, for messages.
    endpoint_url
        Of a look-alike that has the file.

    Raises
    ------
    ConfigError
        The file cannot be read, or there is no id.
    IngestError
        It is remote and cannot be fetched (`ingest.named_files`).
    """
    if text.startswith("@"):
        try:
            lines = read_text(text[1:], endpoint_url=endpoint_url).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{option}: cannot read {text[1:]} ({error})", kind="bad-gene-file") from error
        text = "\n".join(line.split("#", 1)[0] for line in lines)
    ids = tuple(text.replace(",", " ").split())
    if not ids:
        raise ConfigError(f"{option} holds no gene id", kind="bad-gene-file")
    return ids
