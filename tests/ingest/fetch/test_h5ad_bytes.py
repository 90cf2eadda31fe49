"""Files that HDF5 cannot open: nothing of them stays, and the process ends as it should."""

from __future__ import annotations

import gc
import io
import re
import subprocess
import sys
import weakref
from typing import Any

import h5py
import numpy as np
import pytest

from ingest.errors import HostileFileError, TransientError
from ingest.fetch.h5ad_bytes import MemoryBytes, SourceBytes

_KEPT = """
import io, sys
import h5py
from ingest.errors import IngestError, TransientError
from ingest.fetch.h5ad_bytes import MemoryBytes

class Broken(MemoryBytes):
    def copy(self, position, view):
        raise TransientError("the line is dead")

made = io.BytesIO()
with h5py.File(made, "w") as file:
    file["x"] = [1, 2, 3]
opened = Broken(made.getvalue(), "a.h5ad")
try:
    opened.as_hdf5()
except IngestError as error:
    sys.modules["kept"] = kept = error  # as a notebook does, or whoever collects errors
kept.kept = kept
print(kept)
"""


class _Broken(MemoryBytes):
    """Fails from its `after`th read on."""

    def __init__(self, data: bytes, after: int) -> None:
        super().__init__(data, "a.h5ad")
        self._left = after

    def copy(self, position: int, view: memoryview) -> None:
        if self._left == 0:
            raise TransientError("the line is dead")
        self._left -= 1
        super().copy(position, view)


@pytest.fixture(scope="module")
def made() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["obs/x"] = range(100)
    return buffer.getvalue()


def test_a_kept_exception_of_a_file_that_cannot_be_read_does_not_end_the_process():
    run = subprocess.run([sys.executable, "-c", _KEPT], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "the line is dead\n", "")


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_the_bytes_go_as_soon_as_the_exception_does(made: bytes, after: int):
    def failed() -> weakref.ref[SourceBytes]:
        opened = _Broken(made, after)
        with pytest.raises(TransientError, match="the line is dead"), opened.as_hdf5() as file:
            file["obs/x"][:]
        assert isinstance(opened.failure, TransientError)
        assert opened.failure.__traceback__ is None
        return weakref.ref(opened)

    gc.collect()
    gc.disable()
    try:
        assert failed()() is None  # no cycle: a damaged chunk of 100 MB does not wait for the collector
    finally:
        gc.enable()


def test_a_file_that_is_none_lets_go_of_its_bytes(made: bytes):
    opened = MemoryBytes(made[:-1], "a.h5ad")
    with pytest.raises(OSError, match="truncated") as caught:
        opened.as_hdf5()
    held = weakref.ref(opened)
    del opened, caught
    gc.collect()
    assert held() is None


def test_a_file_is_opened_to_read_with_a_cache_of_the_size_asked_for(made: bytes):
    with MemoryBytes(made, "a.h5ad").as_hdf5(123_456) as file:
        assert file["obs/x"][:].tolist() == list(range(100))
        assert file.id.get_access_plist().get_cache()[2] == 123_456
        with pytest.raises(ValueError, match="no write intent"):
            file["y"] = 1


def test_a_failure_in_a_heap_is_told_by_its_own_name(made: bytes):
    at = made.index(b"HEAP\0\0\0\0")
    bad = bytearray(made)
    bad[at + 16 : at + 24] = bytes(8)  # the first free block is the one at 0, which names itself below
    address = int.from_bytes(made[at + 24 : at + 32], "little")
    bad[address : address + 8] = bytes(8)
    with pytest.raises(HostileFileError) as caught, MemoryBytes(bytes(bad), "a.h5ad").as_hdf5() as file:
        file["obs/x"][:]
    assert caught.value.kind == "damaged-heap"


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_hdf5_reads_every_heap_from_its_beginning_so_that_none_passes_unseen(libver: str):
    buffer, starts, seen = io.BytesIO(), set(), []
    with h5py.File(buffer, "w", libver=libver) as file:
        for at in range(20):
            group = file.create_group(f"group{at}")
            for number in range(20):
                group.create_group(f"empty{number}").attrs["texts"] = ["a"] * 30
            group["texts"] = np.array([f"text{number}" * 50 for number in range(50)], h5py.string_dtype())

    class Watched(MemoryBytes):
        def readinto(self, buffer: Any) -> int:
            starts.add(self.tell())
            return super().readinto(buffer)

    data = buffer.getvalue()
    with Watched(data, "a.h5ad").as_hdf5() as file:
        file.visititems(lambda _, node: seen.append((dict(node.attrs), node[()] if hasattr(node, "dtype") else None)))
    assert len(seen) == 20 * 22
    heaps = [found.start() for found in re.finditer(rb"HEAP\0\0\0\0|GCOL\x01\0\0\0", data)]
    assert len(heaps) >= 20
    assert starts.issuperset(heaps)
