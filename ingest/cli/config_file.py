"""Settings from a file: TOML, or JSON with ``//`` comments, named as the long options.

::

    {
      "chunk_size": 25000,                  // cells_per_chunk
      "compression_level": 4,               // level
      "quality_control": {"min_genes": 200, "max_mito_pct": 10, "mad": 5, "leave_out_column": "is_doublet"},
      "gene_processing": {"min_cells": 3, "gene_filter": "@genes.txt", "normalize": true},
      "subset_to_control_cells": false
    }

``quality_control`` has the rules of `qc` about cells, ``gene_processing`` those about genes and the options of `run`
about them; JSON's null leaves a setting out.
"""

from __future__ import annotations

import json
import re
import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ingest.errors import ConfigError
from ingest.named_files import read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["QUALITY_TABLES", "read_settings", "unknown_setting", "without_comments"]

QUALITY_TABLES = ("quality_control", "gene_processing")

_PIECES = re.compile(r'"(?:[^"\\\n]++|\\.)*+"|//[^\n]*|[^"/]+|.', re.DOTALL)


def without_comments(text: str) -> str:
    """Return JSON without its ``//`` comments; what stands in strings stays, and every line keeps its number."""
    return "".join("" if piece.startswith("//") else piece for piece in _PIECES.findall(text))


def read_settings(path: str, *, endpoint_url: str | None = None) -> dict[str, Any]:
    """Read a file of settings, local or remote: JSON where it begins with a brace, else TOML.

    Parameters
    ----------
    endpoint_url
        Of a look-alike that has the file.

    Raises
    ------
    ConfigError
        It cannot be read (kind ``bad-config``); the message has the line.
    IngestError
        It is remote and cannot be fetched (`ingest.named_files`).
    """
    try:
        text = read_text(path, endpoint_url=endpoint_url)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", kind="bad-config") from error
    stripped = without_comments(text)
    is_json = stripped.lstrip().startswith("{")
    try:
        settings = json.loads(stripped, object_pairs_hook=_distinct) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if is_json else "TOML"
        raise ConfigError(f"{path}: no readable {kind} file ({error})", kind="bad-config") from error
    return {name: value for name, value in settings.items() if value is not None}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice, as TOML does: JSON would take the last and say nothing."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{name}' stands twice")
        found[name] = value
    return found


def unknown_setting(path: str, key: str, names: Iterable[str]) -> ConfigError:
    """Return the error for a setting that there is not, with what may have been meant."""
    close = get_close_matches(key, list(names), n=1)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return ConfigError(f"{path}: no setting '{key}'{meant}", kind="bad-config")
