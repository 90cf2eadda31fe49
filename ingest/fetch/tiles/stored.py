"""A stored X: its schema and the fragments that count, read as TileDB would. What is committed is what there is.

Layout: ``array_file_hierarchy.md`` and ``consolidated_commits_file.md`` of the format. Arrays in the middle of some
upkeep (vacuuming, deleted cells, ignored commits) are left to TileDB, and so are fragments that were consolidated
where duplicates are not allowed: there the younger of two entries counts.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

from ingest.fetch.tiles.format import MOST_METADATA_BYTES, Unfamiliar
from ingest.fetch.tiles.fragment import FILES, Footer, Fragment, read_fragment
from ingest.fetch.tiles.schema import XSchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.fetch.tiles.folder import ArrayFolder

__all__ = ["StoredX", "open_stored"]

_NAME = re.compile(r"__(\d{1,20})_(\d{1,20})_[0-9a-f]{1,64}_(\d{1,9})", re.ASCII)
_KNOWN = {"__commits", "__fragments", "__schema", "__meta", "__fragment_meta", "__labels"}
"""What lies in an array's folder; fragments of formats before 12, and their schema, would lie beside them."""
_TAIL_BYTES = 16 << 10
_METADATA = "__fragment_metadata.tdb"
_TILES_KEPT = 1 << 20
"""Tiles of which it is held where they lie, 64 bytes each: units walk through an array in order."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One fragment, its footer read."""

    path: str
    metadata_bytes: int
    footer: Footer


class StoredX:
    """X as it is stored. Tables of a fragment are read when its cells are first wanted, by whichever thread.

    Parameters
    ----------
    folder
        Of the array.
    schema
        Of all fragments.
    parts
        In the order of their names, which is that of time.
    """

    def __init__(self, folder: ArrayFolder, schema: XSchema, parts: Sequence[_Part]) -> None:
        self.folder, self.schema = folder, schema
        self._parts = tuple(parts)
        self._tables: OrderedDict[int, Fragment] = OrderedDict()
        self._lock = Lock()

    def fragments(self, first_row: int, last_row: int) -> list[Fragment]:
        """Return the fragments that hold any of the rows, both ends included.

        Raises
        ------
        Unfamiliar
            A fragment's tables contradict its footer.
        OSError, IngestError
            As `ArrayFolder.read`.
        """
        with self._lock:
            return [
                self._fragment(number)
                for number, part in enumerate(self._parts)
                if part.footer.domain[0] <= last_row and part.footer.domain[1] >= first_row
            ]

    def _fragment(self, number: int) -> Fragment:
        if number in self._tables:
            self._tables.move_to_end(number)
            return self._tables[number]
        part = self._parts[number]
        read = partial(_metadata, self.folder, part.path)
        while self._tables and sum(len(one.cells) for one in self._tables.values()) + part.footer.n_tiles > _TILES_KEPT:
            self._tables.popitem(last=False)
        self._tables[number] = read_fragment(part.path, part.footer, self.schema.capacity, read)
        return self._tables[number]


def open_stored(folder: ArrayFolder, *, until_ms: int | None = None) -> StoredX:
    """Read schema and footers of the array in `folder`.

    Parameters
    ----------
    until_ms
        What counts was written up to then, milliseconds since 1970; now, unless said.

    Raises
    ------
    Unfamiliar
        It is stored in a way that only TileDB reads, or changes right now.
    OSError, IngestError
        As `ArrayFolder.read`.
    """
    if strangers := folder.names() - _KNOWN:
        raise Unfamiliar(f"{min(strangers)[:80]!r} beside its fragments")
    names = _committed(folder, time.time() * 1000 if until_ms is None else until_ms)
    files = folder.files("__fragments")
    parts = _parts(folder, names, files)
    schemas = {part.footer.schema for part in parts}
    if len(schemas) != 1:
        raise Unfamiliar(f"{len(schemas):,} schemas")
    place = f"__schema/{schemas.pop()}"
    sizes = folder.files("__schema")
    if set(sizes) != {place} or sizes[place] > MOST_METADATA_BYTES:
        raise Unfamiliar("a schema that changed")
    schema = XSchema.parse(bytes(folder.read([(place, 0, sizes[place])])[0]))
    if not schema.allows_duplicates:
        _check_no_choice(parts)
    return StoredX(folder, schema, parts)


def _committed(folder: ArrayFolder, until_ms: float) -> list[str]:
    """Return the names of the fragments that are committed, ascending."""
    names: set[str] = set()
    files = folder.files("__commits")
    for path, size in files.items():
        name, _, kind = path.removeprefix("__commits/").rpartition(".")
        if kind == "wrt":
            names.add(name)
        elif kind == "con" and size <= MOST_METADATA_BYTES:
            names |= _consolidated(bytes(folder.read([(path, 0, size)])[0]))
        else:
            raise Unfamiliar(f"a commit of kind {kind!r}")
    for name in names:
        found = _NAME.fullmatch(name)
        if found is None or int(found[2]) > until_ms:
            raise Unfamiliar(f"a fragment named {name[:80]!r}")
    if not names:
        raise Unfamiliar("no fragments")
    return sorted(names)


def _consolidated(content: bytes) -> set[str]:
    lines = content.decode("utf-8", "replace").removesuffix("\n").split("\n")
    names = {line.rsplit("/", 1)[-1].removesuffix(".wrt") for line in lines if line.endswith(".wrt")}
    if not all(line.endswith(".wrt") for line in lines):
        raise Unfamiliar("consolidated commits of other things than fragments")
    return names


def _parts(folder: ArrayFolder, names: Sequence[str], files: Mapping[str, int]) -> list[_Part]:
    sizes = {name: files.get(f"__fragments/{name}/{_METADATA}", 0) for name in names}
    if absent := [name for name, size in sizes.items() if not size]:
        raise Unfamiliar(f"no metadata of fragment {absent[0]}")
    tails = folder.read(
        [(f"__fragments/{name}/{_METADATA}", max(0, size - _TAIL_BYTES), size) for name, size in sizes.items()]
    )
    parts = [
        _Part(f"__fragments/{name}", size, Footer.parse(bytes(tail), size))
        for (name, size), tail in zip(sizes.items(), tails, strict=True)
    ]
    for part in parts:
        for field, file in FILES.items():
            if files.get(f"{part.path}/{file}") != part.footer.sizes[field]:
                raise Unfamiliar(f"{part.path}/{file} of another size than its footer says")
    return parts


def _check_no_choice(parts: Sequence[_Part]) -> None:
    if any(part.footer.with_times for part in parts):
        raise Unfamiliar("consolidated fragments of an array without duplicates")
    ordered = sorted(part.footer.domain for part in parts)
    if any(later[0] <= earlier[1] for earlier, later in pairwise(ordered)):
        raise Unfamiliar("fragments that overlap in an array without duplicates")


def _metadata(folder: ArrayFolder, path: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
    return [bytes(data) for data in folder.read([(f"{path}/{_METADATA}", start, stop) for start, stop in places])]
