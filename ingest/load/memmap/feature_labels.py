"""Arrays and labels beside the Parquet files of features.

Nothing is unpickled: where a label is None bionemo-scdl stores an array of objects, of whose pickle only texts and
None are taken. Here None is written as an empty text, which is read as None.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.memmap.feature_frames import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.load.memmap.feature_pieces import Array

__all__ = ["read_labels", "read_npy"]

_TEXTS = "SHORT_BINUNICODE|BINUNICODE|SHORT_BINBYTES|NONE|NEWFALSE|NEWTRUE|BININT|BININT1|BININT2"
_LISTS = "EMPTY_LIST|APPEND|APPENDS|MARK|TUPLE|TUPLE1|TUPLE2|TUPLE3|MEMOIZE|BINGET|LONG_BINGET|BINPUT|LONG_BINPUT"
_OPCODE = re.compile(f"{_TEXTS}|{_LISTS}|PROTO|FRAME|GLOBAL|STACK_GLOBAL|REDUCE|BUILD|STOP")
_MOST_MEMO = 1 << 24
_LAST_CHARACTER = 0x10FFFF
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<|][iufbUSO][0-9]{0,8})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9]{0,18}(, ?[0-9]{1,18})?),?\), \} *\n",
    re.DOTALL,
)


def read_labels(path: Path, n: int) -> tuple[str | None, ...]:
    """Read the labels of `n` blocks.

    Raises
    ------
    CorruptError
        They are others (kind ``scdl-features``).
    """
    dtype, shape, body = _npy_parts(path)
    if shape != (n,):
        raise damaged(path, f"has {math.prod(shape)} labels of {n} blocks, in {len(shape)} dimensions")
    if dtype.hasobject:
        return tuple(_unpickled_labels(path, body, n))
    labels = read_npy(path)
    if n and labels.dtype.kind != "U":
        raise damaged(path, "holds no texts")
    return tuple(label or None for label in labels.tolist())


def read_npy(path: Path) -> Array:
    """Read an array of numbers or texts.

    Raises
    ------
    CorruptError
        It is missing or damaged (kind ``scdl-features``).
    """
    dtype, shape, body = _npy_parts(path)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(body):
        raise damaged(path, f"is damaged ({len(body):,} bytes of {dtype} {shape})")
    found = np.frombuffer(body, dtype).reshape(shape)
    if dtype.kind == "U" and found.size and found.reshape(-1).view(np.uint32).max() > _LAST_CHARACTER:
        raise damaged(path, "is damaged (no text)")
    return found


def _npy_parts(path: Path) -> tuple[np.dtype[Any], tuple[int, ...], bytes]:
    """Return type, shape and bytes of an array as numpy writes them; no other header is believed."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    found = _NPY.match(stored)
    if found is None:
        raise damaged(path, "is damaged (no header of an array)")
    try:
        dtype = np.dtype(found["dtype"].decode())
    except (TypeError, ValueError) as error:
        raise damaged(path, f"is damaged ({error})") from error
    shape = tuple(int(length) for length in found["shape"].split(b",") if length.strip())
    return dtype, shape, stored[found.end() :]


class _Stored:
    """Stands for whatever a pickle of labels makes: it only keeps what it was given."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _LabelReader(pickle.Unpickler):
    """Makes nothing of a pickle but texts, None, numbers and `_Stored`."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ARG002 # whatever it is, it is not looked for
        return _Stored


def _unpickled_labels(path: Path, body: bytes, n: int) -> list[str | None]:
    try:
        for opcode, argument, _ in pickletools.genops(body):
            far = opcode.name.endswith("PUT") and (argument or 0) > _MOST_MEMO
            if far or not _OPCODE.fullmatch(opcode.name):
                raise damaged(path, f"is no list of texts ({opcode.name} in it)")
        found = _LabelReader(io.BytesIO(body)).load()
        labels = list(found.state[-1])
    except (pickle.UnpicklingError, ValueError, TypeError, AttributeError, IndexError, KeyError, EOFError) as error:
        raise damaged(path, f"is no list of texts ({error})") from error
    if len(labels) != n or not all(label is None or type(label) is str for label in labels):
        raise damaged(path, "holds something else than texts")
    return labels
