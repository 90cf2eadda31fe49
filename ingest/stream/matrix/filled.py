"""What is not zero of dense rows, sixty-four values at a time, in one pass.

A comparison of vectors leaves one bit a value. Where all are 0, nothing more is done; where few are not, the bits say
where those are; where many are not, CPUs with AVX-512 push them together sixteen at a time. A loop that looks at one
value after the other takes four times as long. Nobody knows how many entries come before they are there: they are
written to room that is enough in any case and used again, and copied while they are in the CPU's cache.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from ingest.fetch.h5ad_planes import bits_of
from ingest.fetch.kernels import compiled

__all__ = ["Filled", "compress_filled", "filled_bits", "take_filled"]

Array = np.ndarray[Any, Any]


_STEP = 64
_FEW = 4
"""Entries of a step that are taken one by one."""
_VECTOR_BITS = 512


def _compresses() -> bool:
    """Whether what is compiled may use AVX-512: of this CPU, unless numba is told which features there are.

    An image is, for it runs on others than it was built on: LLVM then ends the process over an instruction too many.
    """
    told = getattr(config, "CPU_FEATURES", None)  # numba sets its configuration where mypy does not look
    if told is not None:
        return "+avx512f" in told.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))


_COMPRESSES = _compresses()


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    undefined, zeros = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), vector.count)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(zeros, [0] * vector.count))


def _load(builder: Any, data: Any, at: Any, vector: Any) -> Any:
    loaded = builder.load(builder.bitcast(builder.gep(data, [at]), vector.as_pointer()))
    loaded.align = vector.element.width // 8
    return loaded


def _make_filled_bits(_context: Any, words: Any, _at: Any, _mask: Any) -> Any:
    """Return 64 bits: whether ``words[at + i] & mask`` is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words_type = signature.args[0]
        vector = ir.VectorType(context.get_data_type(words_type.dtype), _STEP)
        data = context.make_array(words_type)(context, builder, arguments[0]).data
        found = builder.and_(_load(builder, data, arguments[1], vector), _splat(builder, arguments[2], vector))
        return builder.bitcast(builder.icmp_unsigned("!=", found, ir.Constant(vector, [0] * _STEP)), ir.IntType(_STEP))

    return types.uint64(words, types.intp, words.dtype), generate


def _make_first_bit(_context: Any, _bits: Any) -> Any:
    """Return the place of the lowest bit that is set; 64 where none is."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


def _make_n_bits(_context: Any, _bits: Any) -> Any:
    """Return how many bits are set."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def _make_compress(
    _context: Any, words: Any, _at: Any, _bits: Any, _first: Any, columns: Any, values: Any, _to: Any
) -> Any:
    """Push the words whose bits are set together, with their columns; return the place behind the last.

    Whole vectors are written: up to a vector behind that place.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = {n: context.make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 4, 5)}
        at, bits, first, to = (arguments[number] for number in (1, 2, 3, 6))
        lanes = _VECTOR_BITS // words.dtype.bitwidth
        word = ir.VectorType(context.get_data_type(words.dtype), lanes)
        column, mask = ir.VectorType(ir.IntType(32), lanes), ir.VectorType(ir.IntType(1), lanes)
        begin = _splat(builder, builder.trunc(builder.add(at, first), ir.IntType(32)), column)

        def store(vector: Any, chosen: Any, data: Any) -> None:
            kind = vector.type
            name = f"llvm.x86.avx512.mask.compress.v{lanes}i{kind.element.width}"
            signature = ir.FunctionType(kind, [kind, kind, mask])
            compress = builder.module.globals.get(name) or ir.Function(builder.module, signature, name)
            packed = builder.call(compress, [vector, ir.Constant(kind, [0] * lanes), chosen])
            place = builder.bitcast(builder.gep(data, [to]), kind.as_pointer())
            builder.store(packed, place).align = kind.element.width // 8

        for lane in range(0, _STEP, lanes):
            here = builder.trunc(builder.lshr(bits, ir.Constant(bits.type, lane)), ir.IntType(lanes))
            chosen = builder.bitcast(here, mask)
            store(_load(builder, arrays[0], builder.add(at, ir.Constant(at.type, lane)), word), chosen, arrays[5])
            store(builder.add(begin, ir.Constant(column, [*range(lane, lane + lanes)])), chosen, arrays[4])
            to = builder.add(to, builder.zext(builder.ctpop(here), to.type))
        return to

    return types.intp(words, types.intp, types.uint64, types.intp, columns, values, types.intp), generate


# What is called by compiled code, without the context that it is declared with: no type says that.
_filled_bits: Any = intrinsic(_make_filled_bits)
_first_bit: Any = intrinsic(_make_first_bit)
_n_bits: Any = intrinsic(_make_n_bits)
_compress: Any = intrinsic(_make_compress)


@compiled
def take_filled(block: Array, mask: Any, first: int, columns: Array, values: Array, indptr: Array) -> None:
    """Take what is not zero, row by row.

    Parameters
    ----------
    block
        Unsigned words ``(n_rows, n_columns)``, rows contiguous.
    mask
        Of the same type: the bits that a value other than zero has some of.
    first
        Number of the first column.
    columns, values
        With room for all of the block and 64 more; what lies behind the last entry is spoilt.
    indptr
        int64 ``(n_rows + 1,)``, filled.
    """
    whole, place = block.shape[1] // _STEP * _STEP, np.int64(0)
    indptr[0] = 0
    for number in range(block.shape[0]):
        row = block[number]
        for at in range(0, whole, _STEP):
            bits = _filled_bits(row, at, mask)
            end = place + np.int64(_n_bits(bits))
            # Four at a time, whether they are there or not: cheaper than a branch that is guessed wrong.
            while True:
                for each in range(_FEW):
                    near = np.int64(_first_bit(bits)) & (_STEP - 1)
                    columns[place + each], values[place + each] = first + at + near, row[at + near]
                    bits &= bits - np.uint64(1)
                place += _FEW
                if place >= end:
                    break
            place = end
        for at in range(whole, row.size):
            if (row[at] & mask) != 0:
                columns[place], values[place] = first + at, row[at]
                place += 1
        indptr[number + 1] = place


@compiled
def compress_filled(block: Array, mask: Any, first: int, columns: Array, values: Array, indptr: Array) -> None:
    """Do what `take_filled` does, where the CPU has AVX-512: words of 4 or 8 bytes, columns of 4."""
    whole, place = block.shape[1] // _STEP * _STEP, np.int64(0)
    indptr[0] = 0
    for number in range(block.shape[0]):
        row = block[number]
        for at in range(0, whole, _STEP):
            bits = _filled_bits(row, at, mask)
            n = np.int64(_n_bits(bits))
            if n > _FEW:
                place = _compress(row, at, bits, first, columns, values, place)
            else:
                for each in range(_FEW):
                    near = np.int64(_first_bit(bits)) & (_STEP - 1)
                    columns[place + each], values[place + each] = first + at + near, row[at + near]
                    bits &= bits - np.uint64(1)
                place += n
        for at in range(whole, row.size):
            if (row[at] & mask) != 0:
                columns[place], values[place] = first + at, row[at]
                place += 1
        indptr[number + 1] = place


def filled_bits(dtype: np.dtype[Any]) -> Any:
    """Return the bits of which a number other than zero has some: of a float all but the sign, since -0.0 is zero."""
    bits = bits_of(dtype)
    return bits.type(np.iinfo(bits).max >> (dtype.kind == "f"))


class Filled:
    """Takes what is not zero of one block after the other, in any thread, and keeps the room for it.

    Parameters
    ----------
    kind
        Of columns: int32 or int64.
    """

    def __init__(self, kind: np.dtype[Any]) -> None:
        self._kind = kind
        self._rooms: list[tuple[Array, Array]] = []

    def take(self, block: Array, first: int = 0) -> tuple[Array, Array, Array]:
        """Return pointers, columns and values of what is not zero.

        Parameters
        ----------
        block
            ``(n_rows, n_columns)``, C order; NaN is not zero, -0.0 is.
        first
            Number of the first column.
        """
        words = block.view(bits_of(block.dtype))
        words.flags.writeable = False  # numba compiles for read-only and writable arrays apart
        room = self._room(words.size + _STEP, words.dtype)
        columns, values = room
        indptr = np.empty(len(block) + 1, np.int64)
        compresses = _COMPRESSES and self._kind.itemsize == 4 and words.itemsize >= 4
        (compress_filled if compresses else take_filled)(
            words, filled_bits(block.dtype), first, columns, values, indptr
        )
        n = int(indptr[-1])
        taken = indptr, columns[:n].copy(), values[:n].copy().view(block.dtype)
        self._rooms.append(room)
        return taken

    def _room(self, n: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        room = self._rooms.pop() if self._rooms else (np.empty(0, self._kind), np.empty(0, dtype))
        if len(room[0]) < n or room[1].dtype != dtype:
            return np.empty(n, self._kind), np.empty(n, dtype)
        return room
