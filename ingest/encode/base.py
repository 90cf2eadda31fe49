"""The seam to the chunk file: a codec turns a block into the bytes of one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ingest.block import Block

__all__ = ["Codec", "Encoded", "Offsets"]


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where the HDF5 chunks of one dataset lie in the file, so that a reader can fetch them by byte range."""

    dataset: str
    """HDF5 path, such as ``X/data``."""
    chunk_shape: tuple[int, ...]
    """Elements."""
    offsets: tuple[int, ...]
    """Byte offsets in the file, in order of the chunks."""
    sizes: tuple[int, ...]
    """Stored bytes of each."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A chunk file in memory."""

    data: bytes | memoryview
    """The file's bytes."""
    offsets: tuple[Offsets, ...]


class Codec(Protocol):
    """Encode blocks; the same block gives the same bytes within one image and CPU class."""

    def encode(self, block: Block) -> Encoded:
        """Return the whole file that holds `block`."""
        ...
