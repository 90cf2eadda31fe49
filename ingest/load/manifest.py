"""What a finished dataset says of its chunks, read from DEST and checked: what a reader starts from."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.encode.open import CODECS, FORMATS
from ingest.errors import ConfigError, CorruptError, IncompleteError, NotFoundError
from ingest.genes import GENE_FIELDS, Genes
from ingest.layout import CHUNK_INDEX_KEY, FORMAT_VERSION, GENE_LIST_KEY, PROCESSING_KEY, chunk_key
from ingest.record_fields import check_fields, each, is_count, is_flag, is_number, is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ingest.store.base import Store

__all__ = ["Manifest", "read_manifest"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """The chunks that exist, in order; cell ``starts[i] + r`` of the dataset is row r of chunk i of these."""

    url: str
    numbers: tuple[int, ...]
    """Chunk number of each: not all, where some are missing."""
    keys: tuple[str, ...]
    sizes: Int64
    """Bytes of each file."""
    sha256: tuple[str, ...]
    dtypes: tuple[str, ...]
    """Of the counts of each."""
    starts: Int64
    """int64 ``(n_chunks + 1,)``."""
    nnz: Int64
    """int64 ``(n_chunks,)``."""
    maximum: float
    """The largest count of all."""
    whole: bool
    """Whether all counts are whole numbers: no fractions were allowed, and nothing was normalised."""
    genes: Genes
    format: str
    codec: str
    sources: tuple[str, ...]
    digest: str
    """Of the plan: names the dataset."""
    complete: bool
    n_planned: int
    """Chunks that the plan has."""

    @property
    def n_chunks(self) -> int:
        """Chunks that exist."""
        return len(self.keys)

    @property
    def n_cells(self) -> int:
        """Cells of the chunks that exist."""
        return int(self.starts[-1])

    @property
    def identity(self) -> str:
        """What the cells are: the plan's digest, with that of the chunks that are there where some are missing."""
        if self.complete:
            return self.digest
        numbers = ",".join(map(str, self.numbers))
        return f"{self.digest}:{hashlib.sha256(numbers.encode()).hexdigest()[:16]}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that holds the counts of every chunk exactly."""
        return np.result_type(*{np.dtype(name) for name in self.dtypes} or {np.dtype(np.float32)})

    @property
    def dense(self) -> bool:
        """Whether chunks hold zeros, too."""
        return FORMATS[self.format].dense

    @property
    def inflated_bytes(self) -> int:
        """What the blocks of all cells take in memory."""
        if self.dense:
            return self.n_cells * len(self.genes) * self.dtype.itemsize
        return int(self.nnz.sum()) * (4 + self.dtype.itemsize)

    def chunk_of(self, rows: Int64) -> Int64:
        """Return which of the chunks each cell is in, int64 as `rows`."""
        found: Int64 = np.searchsorted(self.starts, rows, side="right") - 1
        return found


def read_manifest(store: Store, *, allow_incomplete: bool = False) -> Manifest:
    """Read the summaries of DEST.

    Raises
    ------
    ConfigError
        DEST holds no dataset (kind ``no-dataset``).
    IncompleteError
        Chunks are missing, or the run is not over.
    CorruptError
        A summary is damaged, or of a newer format.
    """
    index = _document(store, CHUNK_INDEX_KEY)
    with _sound(store):
        check_fields(index, _INDEX_FIELDS)
    complete = bool(index.get("complete"))
    entries, n_planned = index["chunks"], index["n_chunks"]
    if not complete and not allow_incomplete:
        raise IncompleteError(
            f"{store.url} is not complete: {len(entries):,} of {n_planned:,} chunks are there",
            hint=f"`python -m ingest run {store.url}` goes on; allow_incomplete=True takes what there is",
        )
    data = _document(store, PROCESSING_KEY)
    genes = _document(store, GENE_LIST_KEY)
    with _sound(store):
        check_fields(genes, GENE_FIELDS)
        check_fields(data, {"plan": is_text, "data": lambda value: isinstance(value, dict)})
        check_fields(data["data"], _DATA_FIELDS)
        _check_entries(entries, n_planned, data["data"]["format"])
        return Manifest(
            url=store.url,
            numbers=tuple(entry["chunk"] for entry in entries),
            keys=tuple(entry["key"] for entry in entries),
            sizes=np.array([entry["bytes"] for entry in entries], np.int64),
            sha256=tuple(entry["sha256"] for entry in entries),
            dtypes=tuple(entry["dtype"] for entry in entries),
            # Counted here: `first_cell` leaves room for the cells of chunks that are missing, the table of cells none.
            starts=np.concatenate([[0], np.cumsum([entry["n_cells"] for entry in entries], dtype=np.int64)]),
            nnz=np.array([entry["nnz"] for entry in entries], np.int64),
            maximum=max((float(entry["maximum"]) for entry in entries), default=0.0),
            whole=not data["data"]["allow_noninteger"] and data["data"].get("normalize") is None,
            genes=Genes(tuple(genes["ids"]), tuple(genes["names"]), tuple(genes["lengths"])),
            format=data["data"]["format"],
            codec=data["data"]["codec"],
            sources=tuple(data["data"]["sources"]),
            digest=data["plan"],
            complete=complete,
            n_planned=n_planned,
        )


@contextmanager
def _sound(store: Store) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptError(f"{store.url}: its summaries lack something ({error!r})", kind="bad-summary") from error


_INDEX_FIELDS: Mapping[str, Callable[[Any], bool]] = {"n_chunks": is_count, "chunks": each(lambda _: True)}
_ENTRY_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("chunk", "bytes", "n_cells", "nnz"), is_count),
    **dict.fromkeys(("key", "sha256", "dtype"), is_text),
    "maximum": is_number,
}
_DATA_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "allow_noninteger": is_flag,
    "format": lambda value: value in FORMATS if isinstance(value, str) else False,
    "codec": lambda value: value in CODECS,
    "sources": each(is_text),
}


def _check_entries(entries: Sequence[Mapping[str, Any]], n_planned: int, format_name: str) -> None:
    """Refuse chunks that are none of the plan's: keys are made of numbers, so that none leads out of DEST."""
    digits, before = max(6, len(str(n_planned - 1))), -1
    for entry in entries:
        check_fields(entry, _ENTRY_FIELDS)
        number = entry["chunk"]
        if not before < number < n_planned or entry["key"] != chunk_key(number, digits, f".{format_name}"):
            raise ValueError(f"{entry['key'][:60]!r} is not chunk {number} of {n_planned:,}")
        if np.dtype(entry["dtype"]).kind not in "iuf":
            raise ValueError(f"counts of {entry['dtype'][:60]!r}")
        before = number


def _document(store: Store, key: str) -> Mapping[str, Any]:
    try:
        document = json.loads(store.get(key))
    except NotFoundError as error:
        raise ConfigError(
            f"{store.url} holds no finished dataset: no {key}",
            kind="no-dataset",
            hint=f"`python -m ingest status {store.url}` says how far it is; `run` makes one",
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{store.url}/{key} is damaged ({error})", kind="bad-summary", key=key) from error
    if not isinstance(document, dict) or not isinstance(version := document.get("format_version"), int):
        raise CorruptError(f"{store.url}/{key} is no summary of a dataset", kind="bad-summary", key=key)
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{store.url} has format {version}, this reads up to {FORMAT_VERSION}",
            kind="newer-format",
            hint="upgrade cell-ingest",
        )
    return document
