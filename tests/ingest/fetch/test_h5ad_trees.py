"""Indices that lead HDF5 in circles, past its stack, to memory that holds nothing: refused, as sound ones are not."""

from __future__ import annotations

import re
import shutil
from typing import Any

import h5py
import numpy as np
import pytest

from ingest.errors import HostileFileError, TransientError
from ingest.fetch.h5ad_bytes import LocalBytes, MemoryBytes
from ingest.fetch.h5ad_open import open_h5ad
from ingest.testing.hostile.good import write_good_h5ad
from ingest.testing.hostile.h5ad_indices import INDICES, add_tall_trees, add_todays_indices

_INDEX = re.compile(rb"TREE[\0\1]|BTHD\0|FAHD\0|EAHD\0")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_good_h5ad(tmp_path_factory.mktemp("trees") / "good.h5ad")


@pytest.fixture(scope="module")
def tall(good):
    path = good.with_name("tall.h5ad")
    shutil.copyfile(good, path)
    with h5py.File(path, "r+") as file:
        add_tall_trees(file)
        for number in range(5000):
            file["obsm"].create_group(f"a-long-name-of-a-group-{number}")
        file["uns"].create_dataset("blocks", data=np.arange(4500), chunks=(1,))
        file["uns"].create_dataset("rows", data=np.arange(4500).reshape(-1, 2), chunks=(1, 1))
    return path


@pytest.fixture(scope="module")
def todays(good):
    path = good.with_name("todays.h5ad")
    with h5py.File(good) as old, h5py.File(path, "w", libver="latest") as file:
        for name in old:
            old.copy(name, file)
        add_todays_indices(file)
    return path


def read_all(path):
    with open_h5ad(str(path)) as file, file.reading("/"):
        return contents(file.file)


def contents(file):
    seen: dict[str, Any] = {}
    file.visititems(lambda name, node: seen.update({name: node[()] if hasattr(node, "dtype") else list(node)}))
    return seen


@pytest.mark.parametrize("which", ["tall", "todays"])
def test_sound_indices_are_read_as_ever(which, request):
    path = request.getfixturevalue(which)
    levels = {(data[5], data[4]) for data in nodes(path)} if which == "tall" else set()
    assert which == "todays" or {(2, 0), (2, 1)} <= levels
    assert which == "tall" or path.read_bytes().count(b"BTIN") > 2
    found = read_all(path)
    with h5py.File(path) as file:
        for name in ("X/data", *(f"uns/{own}" for own in file["uns"] if own in ("blocks", "rows", "tree", "fixed"))):
            assert np.array_equal(found[name], file[name][()])


def nodes(path):
    data = path.read_bytes()
    return [data[found.start() : found.start() + 24] for found in re.finditer(rb"TREE", data)]


@pytest.mark.parametrize("which", ["tall", "todays"])
def test_hdf5_reads_every_index_from_its_beginning_so_that_none_passes_unseen(which, request):
    data, starts = request.getfixturevalue(which).read_bytes(), set()

    class Watched(MemoryBytes):
        def readinto(self, buffer: Any) -> int:
            starts.add(self.tell())
            return super().readinto(buffer)

    with Watched(data, "a.h5ad").as_hdf5() as file:
        contents(file)
    indices = {found.start() for found in _INDEX.finditer(data)}
    assert len(indices) > 8
    assert len(indices & starts) > 0.9 * len(indices)  # the rest is of groups that grew


@pytest.mark.parametrize("name", INDICES)
def test_a_tree_that_is_none_is_refused(name, good, tmp_path):
    path = tmp_path / "bad.h5ad"
    shutil.copyfile(good, path)
    with h5py.File(path, "r+") as file:
        add_tall_trees(file)
    path.write_bytes(INDICES[name](path.read_bytes()))
    with pytest.raises(HostileFileError, match="the index at byte") as caught:
        read_all(path)
    assert caught.value.kind == "damaged-index"


@pytest.mark.parametrize(
    ("signature", "offset", "new"),
    [
        (b"BTHD", 10, bytes(2)),  # records of no bytes: HDF5 divides by it
        (b"BTHD", 10, b"\xff\x7f"),
        (b"BTHD", 12, b"\xff\xff"),
        (b"BTHD", 16, b"\xff" * 8),
        (b"BTHD", 24, bytes(2)),  # records that HDF5 takes memory for, and that nobody fills
        (b"BTHD", 26, b"\1"),
        (b"BTIN", 6, bytes(400)),
        (b"EAHD", 44, b"\0\0\0\0\1"),
        (b"FAHD", 8, b"\0\0\0\0\1"),
    ],
)
def test_what_the_header_of_an_index_cannot_say_is_refused(signature, offset, new, todays, tmp_path):
    data, path = bytearray(todays.read_bytes()), tmp_path / "bad.h5ad"
    for found in re.finditer(signature + rb"\0", data):
        at = found.start() + offset
        data[at : at + len(new)] = new
    path.write_bytes(data)
    with pytest.raises(HostileFileError) as caught:
        read_all(path)
    assert caught.value.kind == "damaged-index"


def test_looking_at_links_reads_no_index_of_blocks(todays, monkeypatch):
    """HDF5 asked for all facts of an object adds up its indices, and a read that fails there ends the process."""
    whole = todays.read_bytes()
    trees = {found.start() for found in re.finditer(rb"BTHD\0[\x0a\x0b]", whole)}
    assert trees
    real = LocalBytes.copy

    def copy(self: LocalBytes, position: int, view: memoryview) -> None:
        if position in trees:
            raise TransientError("the line is dead")
        real(self, position, view)

    monkeypatch.setattr(LocalBytes, "copy", copy)
    with open_h5ad(str(todays)) as file, pytest.raises(TransientError, match="the line is dead"), file.reading("uns"):
        file.file["uns/tree"][()]
