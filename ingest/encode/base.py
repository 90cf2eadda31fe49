"""The seam to the chunk file: cells go in as they are read, the bytes of one file come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from ingest.block import Block, Counts
    from ingest.genes import Genes

__all__ = ["ChunkEncoder", "Codec", "Encoded", "Offsets", "encode_block"]


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
    content: str
    """`ingest.digest.content_digest` of the cells, taken while they were encoded."""
    dtype: str
    """Of the values as they stand in the file: what was asked for, or wider where a value did not fit."""


class ChunkEncoder(Protocol):
    """One file in the making: its cells are compressed as they come, so that it never holds them all.

    Not shared between threads. An encoder that is given up is simply dropped.
    """

    @property
    def nbytes(self) -> int:
        """Bytes held now: compressed blocks, and the block that is not full yet."""
        ...

    def add(self, counts: Counts) -> None:
        """Take the next cells, checked by `ingest.validate.check_counts`, without stored zeros; nothing is kept."""
        ...

    def finish(self, obs: pa.Table, names: pa.StringArray) -> Encoded:
        """Return the whole file; the encoder is spent.

        Parameters
        ----------
        obs, names
            Of all cells added, in their order.
        """
        ...


class Codec(Protocol):
    """Encode cells; the same cells give the same bytes within one image and CPU class, however they are cut up."""

    def begin(self, genes: Genes, dtype: str) -> ChunkEncoder:
        """Start a file.

        Parameters
        ----------
        genes
            The columns.
        dtype
            Of the values: float32, int32, or uint16 and int16, which widen to int32 where a count needs it. Cells added
            with a wider float type (fractions keep theirs) widen the whole file.
        """
        ...

    def close(self) -> None:
        """End the threads that compress."""
        ...


def encode_block(codec: Codec, block: Block) -> Encoded:
    """Return the file that holds `block`: what `ingest.encode.decode` turns back into it."""
    encoder = codec.begin(block.genes, block.counts.data.dtype.name)
    encoder.add(block.counts)
    return encoder.finish(block.obs, block.obs_names)
