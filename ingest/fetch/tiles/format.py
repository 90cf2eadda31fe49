"""Bytes of the TileDB format: a cursor, filter pipelines, the parts of a tile, generic tiles. Pure: no I/O.

Layouts are those of ``generic_tile.md``, ``filter_pipeline.md`` and ``tile.md`` in TileDB's format specification. All
numbers are little-endian. Whatever does not fit raises `Unfamiliar`; nothing is believed beyond the bytes at hand.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard

from ingest.fetch.tiles import kernels

__all__ = [
    "BYTE_SHUFFLE",
    "GZIP",
    "MOST_METADATA_BYTES",
    "ZSTD",
    "Cursor",
    "Pipeline",
    "Unfamiliar",
    "generic_tile",
    "parts_of",
    "unpack",
]

GZIP, ZSTD, BYTE_SHUFFLE = 1, 2, 9
"""Filter types of TileDB's ``filter_type.h``."""

_MOST_PARTS = 4_096
"""Of a tile: TileDB makes one of every 64 KiB."""
MOST_METADATA_BYTES = 1 << 27
"""Of one table or file."""

_GENERIC = "IQQBQBI"
"""Version, stored bytes, bytes, datatype, cell size, encryption, bytes of the pipeline."""


class Unfamiliar(Exception):  # noqa: N818  # no error: TileDB reads what is stored otherwise
    """The array is stored in a way that is not read here; the text says which."""


class Cursor:
    """Takes one value after the other and never one past the end.

    Parameters
    ----------
    data
        A metadata file or a part of one.
    at
        Byte to begin with.
    """

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self.data, self.at = memoryview(data), at

    def take(self, layout: str) -> tuple[Any, ...]:
        """Return the values of a `struct` layout, without padding."""
        return struct.unpack("<" + layout, self.bytes(struct.calcsize("<" + layout)))

    def one(self, layout: str) -> Any:
        """Return the single value of `layout`."""
        return self.take(layout)[0]

    def array(self, count: int, dtype: str) -> np.ndarray[Any, Any]:
        """Return the next `count` values as a read-only array."""
        return np.frombuffer(self.bytes(count * np.dtype(dtype).itemsize), dtype)

    def bytes(self, size: int) -> memoryview:
        """Return the next `size` bytes."""
        if not 0 <= size <= len(self.data) - self.at:
            raise Unfamiliar("metadata that end early")
        self.at += size
        return self.data[self.at - size : self.at]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The filters that a field's tiles went through when they were written."""

    filters: tuple[int, ...]
    """Filter types, the first applied first."""

    @classmethod
    def read(cls, cursor: Cursor) -> Pipeline:
        """Parse a serialized pipeline."""
        _, count = cursor.take("II")
        if count > 16:
            raise Unfamiliar(f"{count:,} filters")
        filters = []
        for _ in range(count):
            kind, size = cursor.take("BI")
            cursor.bytes(size)  # levels: undoing the filters read here needs none
            filters.append(int(kind))
        return cls(tuple(filters))

    @property
    def shuffled(self) -> bool:
        """Whether bytes were shuffled before they were compressed."""
        return self.filters[:1] == (BYTE_SHUFFLE,)

    @property
    def compressor(self) -> int | None:
        """The filter that compressed, None where none did."""
        return self.filters[-1] if self.filters else None


def parts_of(tile: np.ndarray[Any, np.dtype[np.uint8]], pipeline: Pipeline) -> list[list[int]]:
    """Return where the pieces of a stored tile lie, each compressed and shuffled alone; none is decompressed.

    Parameters
    ----------
    tile
        uint8 ``(n_bytes,)``: all of the tile.
    pipeline
        Its field's.

    Returns
    -------
    list
        ``[start, stop, size]``: bytes of the tile, and bytes when decompressed.

    Raises
    ------
    Unfamiliar
        The lengths contradict each other or the tile.
    """
    directory = np.empty((_MOST_PARTS, 3), np.int64)
    count = kernels.tile_directory(tile, bool(pipeline.filters), directory)
    if count < 0:
        raise Unfamiliar("a tile whose lengths do not add up")
    parts: list[list[int]] = directory[:count].tolist()
    return parts


def unpack(data: memoryview, size: int, pipeline: Pipeline, zstd: zstandard.ZstdDecompressor) -> bytes | memoryview:
    """Decompress one part into exactly `size` bytes; what was shuffled stays so.

    Raises
    ------
    Unfamiliar
        Damaged, or of another length.
    """
    if pipeline.compressor is None:
        return data
    try:
        if pipeline.compressor == ZSTD:
            # A frame says how long it is, and that much is allocated: it must not be any length.
            if zstandard.frame_content_size(data) not in (size, -1):
                raise Unfamiliar("a frame of another length than its part")
            content = zstd.decompress(data, max_output_size=size, allow_extra_data=False)
        else:
            content = _inflated(data, size)
    except (zlib.error, zstandard.ZstdError) as error:
        raise Unfamiliar(f"damaged bytes ({error})") from error
    if len(content) != size:
        raise Unfamiliar("a part of another length than it says")
    return content


def _inflated(data: memoryview, size: int) -> bytes:
    inflate = zlib.decompressobj()
    content = inflate.decompress(data, size + 1)
    if not inflate.eof or inflate.unused_data:
        raise Unfamiliar("a stream that does not end where its part does")
    return content


def generic_tile(data: bytes | memoryview, at: int = 0) -> bytes:
    """Return the content of the generic tile that begins at byte `at`: R-trees, offsets and schemas are such.

    Raises
    ------
    Unfamiliar
        Encrypted, filtered otherwise than TileDB filters its metadata, or damaged.
    """
    cursor = Cursor(data, at)
    _, stored, size, _, _, encryption, _ = cursor.take(_GENERIC)
    pipeline = Pipeline.read(cursor)
    if encryption:
        raise Unfamiliar("encryption")
    if pipeline.filters not in ((), (GZIP,), (ZSTD,)) or size > MOST_METADATA_BYTES:
        raise Unfamiliar(f"{size:,} bytes of metadata filtered by {pipeline.filters}")
    tile, zstd = cursor.bytes(stored), zstandard.ZstdDecompressor()
    parts = parts_of(np.frombuffer(tile, np.uint8), pipeline)
    if sum(part[2] for part in parts) != size:
        raise Unfamiliar("metadata of another length than they say")
    return b"".join(unpack(tile[start:stop], length, pipeline, zstd) for start, stop, length in parts)
