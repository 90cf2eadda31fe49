"""Walk an HDF5 file's links and headers without following a link or reading data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import h5py
from h5py import h5d, h5g, h5l, h5o

if TYPE_CHECKING:
    from ingest.errors import HostileFileError

__all__ = ["OpenBudget", "check_links"]


@dataclass(frozen=True, slots=True)
class OpenBudget:
    """What a file's headers may declare before it is refused."""

    ratio: int = 1100
    """Decoded bytes of one dataset per byte of the file; deflate reaches 1,032."""
    floor_bytes: int = 64 << 20
    """A dataset up to this size is allowed in a file of any size."""
    chunk_bytes: int = 512 << 20
    """Decoded size of one HDF5 chunk: it is decoded whole, however little of it is wanted."""
    spare_chunk_bytes: int = 16 << 20
    """A chunk larger than its dataset is allowed up to this size."""
    objects: int = 500_000
    """Links in the file."""
    depth: int = 64
    """Groups inside groups."""


class _Fail(Protocol):
    def __call__(self, dataset: str, message: str, kind: str) -> HostileFileError: ...


def check_links(file: h5py.File, *, budget: OpenBudget, size_bytes: int, fail: _Fail) -> int:
    """Examine every link and dataset header of `file`, of `size_bytes`; return the bytes that all datasets declare.

    Raises
    ------
    HostileFileError
        Made by `fail`: the first rule broken, naming the object.
    """
    walk = _Walk(budget, size_bytes, fail)
    walk.run(file)
    return walk.declared_bytes


class _Walk:
    def __init__(self, budget: OpenBudget, size_bytes: int, fail: _Fail) -> None:
        self.budget = budget
        self.fail = fail
        self.most_bytes = budget.floor_bytes + budget.ratio * size_bytes
        self.visited: set[int] = set()
        self.links = 0
        self.declared_bytes = 0
        self.soft: dict[str, str] = {}

    def run(self, file: h5py.File) -> None:
        root = h5o.open(file.id, b"/")
        self._group(root, "", (h5g.get_objinfo(root).objno[0],))
        for path, target in self.soft.items():
            kind = "link-cycle" if self._cycles(path) else "soft-link"
            raise self.fail(path, f"is a soft link to {target}, which is not followed", kind)

    def _group(self, group: h5g.GroupID, path: str, above: tuple[int, ...]) -> None:
        if len(above) > self.budget.depth:
            raise self.fail(path, f"groups are nested more than {self.budget.depth} deep", "too-many-objects")
        names: list[bytes] = []
        group.links.iterate(names.append)
        self.links += len(names)
        if self.links > self.budget.objects:
            raise self.fail(path or "/", f"more than {self.budget.objects:,} links", "too-many-objects")
        for raw in names:
            try:
                name = raw.decode()
            except UnicodeDecodeError:
                raise self.fail(f"{path}/{raw!r}", "a name that is not UTF-8", "not-utf8") from None
            self._link(group, raw, f"{path}/{name}".lstrip("/"), above)

    def _link(self, group: h5g.GroupID, raw: bytes, path: str, above: tuple[int, ...]) -> None:
        link = group.links.get_info(raw)
        kind = link.type
        if kind == h5l.TYPE_EXTERNAL:
            raise self.fail(path, "is a link into another file", "external-link")
        if kind == h5l.TYPE_SOFT:
            self.soft[path] = group.links.get_val(raw).decode("utf-8", "replace")
            return
        if kind != h5l.TYPE_HARD:
            raise self.fail(path, "is a link of unknown type", "unknown-link")
        # Not of `h5o.get_info`: that reads all indices to add up their sizes, and where one cannot be read, be it for
        # the network, HDF5 (2.0, tried) closes a tree that it has not opened, which ends the process.
        address = link.u
        if address in above:
            raise self.fail(path, "leads back to a group that holds it", "link-cycle")
        if address in self.visited:
            return
        self.visited.add(address)
        node = h5o.open(group, raw)
        if isinstance(node, h5d.DatasetID):
            self._dataset(node, path)
        elif isinstance(node, h5g.GroupID):
            self._group(node, path, (*above, address))

    def _dataset(self, dataset: h5d.DatasetID, path: str) -> None:
        creation = dataset.get_create_plist()
        # Before the shape is asked for: a virtual dataset may open its sources to tell it.
        if creation.get_layout() == h5d.VIRTUAL:
            raise self.fail(path, "is a virtual dataset, made of other files", "virtual-dataset")
        if creation.get_external_count() > 0:
            raise self.fail(path, "stores its data in another file", "external-storage")
        shape, itemsize = dataset.shape, dataset.get_type().get_size()
        declared = math.prod(shape or (0,)) * itemsize
        self.declared_bytes += declared
        if declared > self.most_bytes:
            message = f"declares {declared:,} bytes, more than a file of this size can hold"
            raise self.fail(path, message, "declared-size")
        if creation.get_layout() == h5d.CHUNKED:
            chunk = math.prod(creation.get_chunk()) * itemsize
            if chunk > min(self.budget.chunk_bytes, max(declared, self.budget.spare_chunk_bytes)):
                raise self.fail(path, f"has chunks of {chunk:,} bytes", "decoded-size")

    def _cycles(self, path: str) -> bool:
        seen = set()
        while path in self.soft:
            if path in seen:
                return True
            seen.add(path)
            target = self.soft[path]
            parent = path.rpartition("/")[0]
            path = target.strip("/") if target.startswith("/") else f"{parent}/{target}".strip("/")
        return False
