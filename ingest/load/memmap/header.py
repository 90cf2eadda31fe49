"""``header.sch``: what an archive consists of, big-endian (SCDL schema 0.0.9).

::

    "SCDL"  version u8 x 3  endianness u8 (1)  backend u32  n u32   then n arrays:  name  length u64  dtype u32  shape
    m u32   then m feature indices:  name  length u64  dtype u32  k u32, k file names  shape

A name is its length in bytes as u32 and UTF-8; a shape is u8 0, or u8 1, its dimensions as u32 and each as u32.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import CorruptError
from ingest.load.memmap.names import SCHEMA_VERSION, ArrayDType, Backend

if TYPE_CHECKING:
    import os

__all__ = ["ArrayInfo", "FeatureIndexInfo", "HeaderSerializationError", "SCDLHeader"]

_MAGIC = b"SCDL"
_NETWORK = 1
_MOST_BYTES = 64 << 20
"""Of a header: hundreds of thousands of feature frames; a damaged count asks for no more."""


class HeaderSerializationError(CorruptError):
    """A header that is none."""

    default_kind = "scdl-header"


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """One array."""

    name: str
    """``DATA``, ``ROWPTR``, ``COLPTR``: the member of `FileNames` that is its file."""
    length: int
    dtype: ArrayDType
    shape: tuple[int, ...] | None = None

    def encoded(self) -> bytes:
        """Return its bytes."""
        return _text(self.name) + struct.pack("!QI", self.length, self.dtype) + _shape(self.shape)


@dataclass(frozen=True, slots=True)
class FeatureIndexInfo:
    """One folder of features."""

    name: str
    length: int
    """Rows."""
    dtype: ArrayDType = ArrayDType.STRING_ARRAY
    index_files: tuple[str, ...] = ()
    """Relative to the archive."""
    shape: tuple[int, ...] | None = None

    def encoded(self) -> bytes:
        """Return its bytes."""
        files = struct.pack("!I", len(self.index_files)) + b"".join(map(_text, self.index_files))
        return _text(self.name) + struct.pack("!QI", self.length, self.dtype) + files + _shape(self.shape)


@dataclass(frozen=True, slots=True)
class SCDLHeader:
    """What an archive consists of."""

    arrays: tuple[ArrayInfo, ...] = ()
    feature_indices: tuple[FeatureIndexInfo, ...] = ()
    version: tuple[int, int, int] = SCHEMA_VERSION
    backend: Backend = Backend.MEMMAP_V0

    def serialize(self) -> bytes:
        """Return the bytes of a header file."""
        core = _MAGIC + bytes(self.version) + struct.pack("!BII", _NETWORK, self.backend, len(self.arrays))
        indices = b"".join(index.encoded() for index in self.feature_indices)
        return (
            core
            + b"".join(array.encoded() for array in self.arrays)
            + struct.pack("!I", len(self.feature_indices))
            + indices
        )

    @classmethod
    def deserialize(cls, data: bytes) -> SCDLHeader:
        """Read the bytes of a header file; what follows the arrays may be missing, as in older ones.

        Raises
        ------
        HeaderSerializationError
            They are no header, or of a schema that is not known.
        """
        reader = _Reader(data)
        if reader.take(4) != _MAGIC:
            raise HeaderSerializationError(f"Invalid magic number: {data[:4]!r} != {_MAGIC!r}")
        major, minor, point, order, backend, n_arrays = reader.unpack("!BBBBII")
        if major > SCHEMA_VERSION[0]:
            raise HeaderSerializationError(f"Unsupported version: {major}.{minor}.{point}")
        if order != _NETWORK:
            raise HeaderSerializationError(f"Invalid endianness: {order} (must be 1 for NETWORK)")
        if backend != Backend.MEMMAP_V0:
            raise HeaderSerializationError(f"Invalid backend value: {backend}")
        arrays = tuple(reader.array() for _ in range(n_arrays))
        indices = tuple(reader.feature_index() for _ in range(reader.unpack("!I")[0])) if reader.left else ()
        return cls(arrays, indices, (major, minor, point))

    def save(self, file_path: str | os.PathLike[str]) -> None:
        """Write it."""
        Path(file_path).write_bytes(self.serialize())

    @classmethod
    def load(cls, file_path: str | os.PathLike[str]) -> SCDLHeader:
        """Read it.

        Raises
        ------
        HeaderSerializationError
            The file is none, or is not there.
        """
        try:
            with Path(file_path).open("rb") as file:
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            raise HeaderSerializationError(f"Header file not found: {file_path}") from None
        try:
            return cls.deserialize(data)
        except HeaderSerializationError as error:
            raise HeaderSerializationError(f"Failed to load header from {file_path}: {error}") from error

    def get_array(self, name: str) -> ArrayInfo | None:
        """Return an array by name."""
        return next((array for array in self.arrays if array.name == name), None)

    def get_feature_index(self, name: str) -> FeatureIndexInfo | None:
        """Return a folder of features by name."""
        return next((index for index in self.feature_indices if index.name == name), None)


def _text(value: str) -> bytes:
    if not value.strip():
        raise HeaderSerializationError("Array name cannot be empty (schema requirement)")
    encoded = value.encode()
    return struct.pack("!I", len(encoded)) + encoded


def _shape(shape: tuple[int, ...] | None) -> bytes:
    return b"\0" if shape is None else struct.pack(f"!BI{len(shape)}I", 1, len(shape), *shape)


@dataclass(slots=True)
class _Reader:
    data: bytes
    at: int = field(default=0)

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.left:
            raise HeaderSerializationError(f"Header data too short: {n_bytes} bytes more are needed at {self.at}")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def text(self) -> str:
        encoded = self.take(self.unpack("!I")[0])
        try:
            return encoded.decode()
        except UnicodeDecodeError as error:
            raise HeaderSerializationError(f"Cannot decode UTF-8 string: {error}") from None

    def dtype(self) -> ArrayDType:
        [number] = self.unpack("!I")
        try:
            return ArrayDType(number)
        except ValueError:
            raise HeaderSerializationError(f"Invalid ArrayDType value: {number}") from None

    def shape(self) -> tuple[int, ...] | None:
        if not self.unpack("!B")[0]:
            return None
        [n] = self.unpack("!I")
        if 4 * n > self.left:
            raise HeaderSerializationError(f"Header data too short for a shape of {n} dimensions")
        return self.unpack(f"!{n}I")

    def array(self) -> ArrayInfo:
        name, [length] = self.text(), self.unpack("!Q")
        return ArrayInfo(name, length, self.dtype(), self.shape())

    def feature_index(self) -> FeatureIndexInfo:
        name, [length] = self.text(), self.unpack("!Q")
        dtype, [n_files] = self.dtype(), self.unpack("!I")
        files = tuple(self.text() for _ in range(n_files))
        return FeatureIndexInfo(name, length, dtype, files, self.shape())
