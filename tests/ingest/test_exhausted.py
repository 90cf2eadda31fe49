"""What means that this process has nothing left, in the words of Python, numpy, TileDB and HDF5."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from ingest.exhausted import exhausted
from ingest.pool import unforeseen


def raised(act) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 # whatever it is
        act()
    return caught.value


def test_numpy_that_finds_no_room():
    error = exhausted(raised(lambda: np.empty(1 << 60, np.uint8)), "cells.h5ad")
    assert error.kind == "out-of-memory"
    assert error.message.startswith("cells.h5ad: ")
    assert "Unable to allocate" in error.message
    assert "fewer workers" in error.hint


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out-of-memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out-of-memory"),
        (RuntimeError("std::bad_alloc"), "out-of-memory"),
        (OSError("Can't read data (memory allocation failed for chunk)"), "out-of-memory"),
        (RuntimeError("can't start new thread"), "no-threads"),
        (OSError(errno.EMFILE, "Too many open files"), "no-files"),
        (OSError("unable to open file (errno = 24, error message = 'Too many open files')"), "no-files"),
    ],
)
def test_words(error, kind):
    assert exhausted(error).kind == kind
    failure = unforeseen((3,), error)
    assert (failure.chunks, failure.handling, failure.kind) == ((3,), "exhausted", kind)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Unable to synchronously open file (truncated file)"),
        ValueError("memory"),
    ],
)
def test_everything_else_means_something_else(error):
    assert exhausted(error) is None
    assert unforeseen((3,), error).handling == "internal"
