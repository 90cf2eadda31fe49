"""What is not zero of dense rows: counted, then taken, sixty-four values at a time.

A comparison of vectors leaves one bit a value; where all are 0, nothing more is done, and otherwise the bits say where
the values are. A loop that looks at one value after the other takes four times as long.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ingest.fetch.h5ad_planes import bits_of
from ingest.fetch.kernels import compiled

if TYPE_CHECKING:
    from ingest.stream.matrix.work import Work

__all__ = ["count_filled", "filled", "filled_bits", "take_filled"]

Array = np.ndarray[Any, Any]


_STEP = 64
_LEAST_BYTES = 256 << 10
"""Of a thread's share of rows."""


def _make_filled_bits(_context: Any, words: Any, _at: Any, _mask: Any) -> Any:
    """Return 64 bits: whether ``words[at + i] & mask`` is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words_type = signature.args[0]
        element = context.get_data_type(words_type.dtype)
        data = context.make_array(words_type)(context, builder, arguments[0]).data
        vector, zeros = ir.VectorType(element, _STEP), ir.VectorType(ir.IntType(32), _STEP)
        loaded = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer()))
        loaded.align = words_type.dtype.bitwidth // 8
        undefined = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(undefined, arguments[2], ir.Constant(ir.IntType(32), 0))
        masks = builder.shuffle_vector(one, undefined, ir.Constant(zeros, [0] * _STEP))
        some = builder.icmp_unsigned("!=", builder.and_(loaded, masks), ir.Constant(vector, [0] * _STEP))
        return builder.bitcast(some, ir.IntType(_STEP))

    return types.uint64(words, types.intp, words.dtype), generate


def _make_first_bit(_context: Any, _bits: Any) -> Any:
    """Return the place of the lowest bit that is set; there is one."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


def _make_n_bits(_context: Any, _bits: Any) -> Any:
    """Return how many bits are set."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


# What is called by compiled code, without the context that it is declared with: no type says that.
_filled_bits: Any = intrinsic(_make_filled_bits)
_first_bit: Any = intrinsic(_make_first_bit)
_n_bits: Any = intrinsic(_make_n_bits)


@compiled
def count_filled(block: Array, mask: Any, counts: Array) -> None:
    """Count what is not zero of each row, int64 ``(n_rows,)``; parameters as of `take_filled`."""
    whole = block.shape[1] // _STEP * _STEP
    for number in range(block.shape[0]):
        row, n = block[number], np.int64(0)
        for at in range(0, whole, _STEP):
            n += np.int64(_n_bits(_filled_bits(row, at, mask)))
        for at in range(whole, row.size):
            n += (row[at] & mask) != 0
        counts[number] = n


@compiled
def take_filled(block: Array, mask: Any, columns: Array, values: Array) -> None:
    """Take what is not zero, row by row.

    Parameters
    ----------
    block
        Unsigned words ``(n_rows, n_columns)``, rows contiguous.
    mask
        Of the same type: the bits that a value other than zero has some of.
    columns, values
        With room for what `count_filled` counts.
    """
    whole, place = block.shape[1] // _STEP * _STEP, 0
    for number in range(block.shape[0]):
        row = block[number]
        for at in range(0, whole, _STEP):
            bits = _filled_bits(row, at, mask)
            while bits:
                column = at + np.int64(_first_bit(bits))
                columns[place], values[place] = column, row[column]
                place += 1
                bits &= bits - np.uint64(1)
        for at in range(whole, row.size):
            if (row[at] & mask) != 0:
                columns[place], values[place] = at, row[at]
                place += 1


def filled_bits(dtype: np.dtype[Any]) -> Any:
    """Return the bits of which a number other than zero has some: of a float all but the sign, since -0.0 is zero."""
    bits = bits_of(dtype)
    return bits.type(np.iinfo(bits).max >> (dtype.kind == "f"))


def filled(block: Array, kind: np.dtype[Any], work: Work) -> tuple[Array, Array, Array]:
    """Return pointers, columns and values of what is not zero, on all threads.

    Parameters
    ----------
    block
        ``(n_rows, n_columns)``, C order; NaN is not zero, -0.0 is.
    kind
        Of columns.
    """
    words, mask = block.view(bits_of(block.dtype)), filled_bits(block.dtype)
    counts = np.empty(len(block), np.int64)
    n_parts = max(min(work.threads, block.nbytes // _LEAST_BYTES, len(block)), 1)
    cuts = [len(block) * part // n_parts for part in range(n_parts + 1)]
    parts = [slice(*bounds) for bounds in pairwise(cuts)]
    list(work.pool.map(lambda part: count_filled(words[part], mask, counts[part]), parts))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    columns, values = np.empty(int(indptr[-1]), kind), np.empty(int(indptr[-1]), words.dtype)

    def take(part: slice) -> None:
        entries = slice(int(indptr[part.start]), int(indptr[part.stop]))
        take_filled(words[part], mask, columns[entries], values[entries])

    list(work.pool.map(take, parts))
    return indptr, columns, values.view(block.dtype)
