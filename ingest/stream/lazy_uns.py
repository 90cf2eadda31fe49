"""uns of a file, entry by entry when it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ingest.errors import AbsentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.handle import AnnData

__all__ = ["LazyEntry", "LazyUns"]

_DICTS = (None, "", "dict")
"""Encodings of a group that is a dict; files before 0.8 state none."""


class LazyUns(Mapping[str, "LazyEntry"]):
    """Entries of uns by name; none is read before it is asked for."""

    __slots__ = ("_handle",)

    def __init__(self, handle: AnnData) -> None:
        self._handle = handle

    def __getitem__(self, key: str) -> LazyEntry:
        names = self._names()
        if key not in names:
            opened = self._handle.opened
            hint = f"there are {', '.join(names[:12])}{' …' if len(names) > 12 else ''}" if names else "it is empty"
            raise AbsentError(f"{opened.name}: no entry {key!r} in uns", hint=hint, source=str(opened.source))
        return LazyEntry(self._handle, f"uns/{key}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def load(self) -> dict[str, Any]:
        """Return all of uns."""
        return {key: entry.load() for key, entry in self.items()}

    def _names(self) -> list[str]:
        from ingest.stream.elements import categories_beside

        opened = self._handle.opened
        node = opened.get("uns")
        with opened.reading("uns"):
            names = list(node) if node is not None and hasattr(node, "keys") else []
        beside = categories_beside(opened)
        return [name for name in names if name not in beside]

    def __repr__(self) -> str:
        return f"uns: {', '.join(self) or 'empty'}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LazyEntry:
    """One entry of uns, or a part of one; what its value can do, it does on the value read whole."""

    handle: AnnData
    path: str

    def load(self) -> Any:
        """Return the value: an array, a table, a sparse matrix, a scalar, or a dict of such.

        Raises
        ------
        AbsentError
            A KeyError: it is gone.
        HostileFileError
            It cannot be decoded.
        """
        from ingest.stream.elements import read_element

        return read_element(self.handle.opened, self.path)

    def preview(self, n: int = 5) -> Any:
        """Return the first `n` of it: elements or rows of an array, rows of a table, entries of a dict.

        Only these are read. A scalar comes whole, of a sparse matrix there is a line about it; ``…`` stands for
        entries of a dict that were left off.

        Raises
        ------
        AbsentError, HostileFileError
            As of `load`.
        """
        return _preview(self.handle.opened, self.path, max(0, n))

    def __getitem__(self, item: Any) -> Any:
        """Return an entry of a dict, unread; of anything else, its value's own item."""
        if isinstance(item, str) and _is_dict(self.handle.opened, self.path):
            path = f"{self.path}/{item}"
            if "/" in item or self.handle.opened.get(path) is None:
                opened = self.handle.opened
                raise AbsentError(f"{opened.name}: no entry {item!r} in {self.path}", source=str(opened.source))
            return LazyEntry(self.handle, path)
        return self.load()[item]

    def __len__(self) -> int:
        return len(self.load())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.load())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.load(), name)

    def __repr__(self) -> str:
        return f"{self.path}: {self.preview()!r}"


def _is_dict(opened: OpenH5ad, path: str) -> bool:
    import h5py

    node = opened.get(path)
    if not isinstance(node, h5py.Group) or opened.attribute(node, "h5sparse_format") is not None:
        return False
    return opened.attribute(node, "encoding-type") in _DICTS


def _preview(opened: OpenH5ad, path: str, n: int) -> Any:
    import h5py

    from ingest.stream.elements import read_element, read_rows

    node = opened.get(path)
    if isinstance(node, h5py.Group) and _is_dict(opened, path):
        with opened.reading(path):
            names = list(islice(node, n + 1))
        shown = {name: _preview(opened, f"{path}/{name}", n) for name in names[:n]}
        return {**shown, "…": "…"} if len(names) > n else shown
    if isinstance(node, h5py.Dataset) and node.ndim:
        return _first(opened, path, node, n)
    if isinstance(node, h5py.Group):
        encoding = opened.attribute(node, "encoding-type")
        if encoding == "dataframe":
            return read_rows(opened, path, 0, n)
        if encoding in ("csr_matrix", "csc_matrix") or opened.attribute(node, "h5sparse_format") is not None:
            return _sparse_line(opened, node)
        return read_element(opened, path)[:n]
    return read_element(opened, path)


def _first(opened: OpenH5ad, path: str, node: Any, n: int) -> Any:
    import h5py

    opened.dataset(path)  # refuses what cannot be decoded here
    with opened.reading(path):
        if h5py.check_string_dtype(node.dtype) is not None:
            return node.asstr()[:n]
        return node[:n]


def _sparse_line(opened: OpenH5ad, node: Any) -> str:
    declared = opened.attribute(node, "shape")
    shape = opened.attribute(node, "h5sparse_shape") if declared is None else declared
    layout = opened.attribute(node, "encoding-type") or opened.attribute(node, "h5sparse_format")
    with opened.reading(node.name):
        data = node["data"]
        return f"{layout} {' x '.join(f'{int(size):,}' for size in shape)}, {len(data):,} entries, {data.dtype}"
