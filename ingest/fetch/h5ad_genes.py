"""The gene vocabulary of an h5ad file: ids wherever the file keeps them, names and lengths where it has them."""

from __future__ import annotations

import re
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash

from ingest.errors import SourceError
from ingest.fetch.h5ad_table import Table, open_table
from ingest.fetch.h5ad_texts import MOST_LABEL_BYTES, decoded_bytes
from ingest.genes import Genes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["read_genes"]

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}(\.\d+)?(_PAR_Y)?")
_VERSION = re.compile(r"^(ENS[A-Z]*G\d+)\.\d+$")
_ID_COLUMNS = (
    "feature_id",
    "ensembl_id",
    "ensembl_ids",
    "gene_ids",
    "gene_id",
    "ensembl",
    "ensembl_gene_id",
    "ensemblid",
)
_NAME_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol", "gene_short_name")
_MOST_GENES = 1 << 24
_ROWS = 1 << 14
_MOST_CHARACTERS = 1 << 10
"""Of an id or a name: every chunk holds all of them in fields as wide as the longest."""


def read_genes(file: OpenH5ad, var_path: str, *, strip_version: bool = False) -> Genes:
    """Return the columns of a matrix: ids from var's index, or from a column when only that holds Ensembl ids.

    Parameters
    ----------
    var_path
        The table of the matrix's columns: ``var``, ``raw/var`` or ``raw.var``.
    strip_version
        Take ``.N`` off Ensembl ids.

    Raises
    ------
    SourceError
        ``duplicate-genes``: an id stands twice; ``bad-gene-id``: one is missing, holds a line break or NUL, or is
        endless; ``bad-gene-name``: a name is.
    HostileFileError
        The table is damaged, or its text is not UTF-8.
    """
    table = open_table(file, var_path)
    if table.n_rows > _MOST_GENES:
        raise file.error(var_path, f"{table.n_rows:,} genes", "decoded-size")
    key = _fingerprint(file, table, strip_version=strip_version)
    found = _KNOWN.get(key)
    if found is None:
        found = _KNOWN[key] = _genes(file, table, var_path, strip_version=strip_version)
        with suppress(KeyError):  # another thread may empty it meanwhile
            while len(_KNOWN) > _MOST_KNOWN:
                _KNOWN.popitem(last=False)
    return found


_KNOWN: OrderedDict[bytes, Genes] = OrderedDict()
_MOST_KNOWN = 8
"""Vocabularies remembered: thousands of files of one catalogue have one, and parsing it is most of a survey."""


def _fingerprint(file: OpenH5ad, table: Table, *, strip_version: bool) -> bytes:
    """Return a digest of all that the genes of `table` follow from."""
    wanted = {*_ID_COLUMNS, *_NAME_COLUMNS, "feature_length"}
    digest = xxhash.xxh3_128(f"{strip_version} {table.n_rows}".encode())
    columns = {name: column for name, column in table.columns.items() if name.lower() in wanted}
    left = MOST_LABEL_BYTES
    for name, column in [("", table.index), *columns.items()]:
        for start in range(0, table.n_rows, _ROWS):
            part = column.read(start, min(start + _ROWS, table.n_rows))
            left -= decoded_bytes(part)
            if left < 0:
                raise file.error(table.path, f"names of more than {MOST_LABEL_BYTES:,} bytes", "decoded-size")
            digest.update(f"{len(name)}{name}{part.type}".encode())
            for values in (part.indices, part.dictionary) if isinstance(part, pa.DictionaryArray) else (part,):
                for buffer in values.buffers():
                    digest.update(b"-" if buffer is None else len(buffer).to_bytes(8, "little"))
                    digest.update(b"" if buffer is None else buffer)
    found: bytes = digest.digest()
    return found


def _genes(file: OpenH5ad, table: Table, var_path: str, *, strip_version: bool) -> Genes:
    index = _read(table, None)
    column = None if _mostly_ensembl(index) else _id_column(table)
    ids = index if column is None else _read(table, column)
    if strip_version:
        ids = [_VERSION.sub(r"\1", gene) if gene else gene for gene in ids]
    _check_ids(file, var_path if column is None else f"{var_path}/{column}", ids, strip_version=strip_version)
    names = _names(table, ids, index if column is not None else None)
    long = next((name for name in names if len(name) > _MOST_CHARACTERS or "\0" in name), None)
    if long is not None:
        message = f"{file.name}: {var_path}: {_shortened(long)} is no gene name"
        raise SourceError(message, kind="bad-gene-name", source=str(file.source))
    return Genes(tuple(ids), names, _lengths(table))


def _check_ids(file: OpenH5ad, where: str, ids: list[str], *, strip_version: bool) -> None:
    seen: set[str] = set()
    for gene in ids:
        if not gene or len(gene) > _MOST_CHARACTERS or "\n" in gene or "\0" in gene:
            message = f"{file.name}: {where}: {_shortened(gene)} is no gene id"
            raise SourceError(message, kind="bad-gene-id", source=str(file.source))
        if gene in seen:
            suffix = " once version suffixes are stripped" if strip_version else ""
            message = f"{file.name}: {where}: gene id {gene!r} stands twice{suffix}"
            raise SourceError(message, kind="duplicate-genes", source=str(file.source))
        seen.add(gene)


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= _MOST_CHARACTERS else f"{text[:16]!r}… of {len(text):,} characters"


def _id_column(table: Table) -> str | None:
    lowered = {name.lower(): name for name in reversed(table.columns)}
    for wanted in _ID_COLUMNS:
        name = lowered.get(wanted)
        if name is not None and _is_text(table.columns[name].type) and _mostly_ensembl(_read(table, name)):
            return name
    return None


def _mostly_ensembl(ids: list[str]) -> bool:
    # Not all: spike-ins, transgenes and antibody tags stand among the genes.
    return 2 * sum(_ENSEMBL.fullmatch(gene) is not None for gene in ids) > len(ids)


def _names(table: Table, ids: list[str], index: list[str] | None) -> tuple[str, ...]:
    lowered = {name.lower(): name for name in reversed(table.columns)}
    for wanted in _NAME_COLUMNS:
        name = lowered.get(wanted)
        if name is not None and _is_text(table.columns[name].type):
            return _or_id(_read(table, name), ids)
    if index is not None and not all(text.isdecimal() for text in index):
        return _or_id(index, ids)
    return tuple(ids)


def _or_id(names: Iterable[str], ids: list[str]) -> tuple[str, ...]:
    return tuple(name or gene for name, gene in zip(names, ids, strict=True))


def _lengths(table: Table) -> tuple[int, ...]:
    column = table.columns.get("feature_length")
    if column is None or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return (0,) * table.n_rows
    return tuple(_length(value) for value in _values(table, "feature_length"))


def _length(value: float | None) -> int:
    return int(value) if value is not None and 0 < value < 1 << 40 else 0


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))


def _read(table: Table, name: str | None) -> list[str]:
    return ["" if value is None else str(value) for value in _values(table, name)]


def _values(table: Table, name: str | None) -> list[Any]:
    column = table.index if name is None else table.columns[name]
    values: list[Any] = []
    for start in range(0, table.n_rows, _ROWS):
        values += column.read(start, min(start + _ROWS, table.n_rows)).to_pylist()
    return values
