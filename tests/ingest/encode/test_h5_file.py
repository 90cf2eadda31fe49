"""The file in the making: what is left open, room that is filled without HDF5."""

from __future__ import annotations

import io

import h5py
import numpy as np

from ingest.encode.h5_file import H5File


def test_an_object_in_somebodys_hands_keeps_no_file_open():
    """As in a traceback, say: HDF5 writes a file when its last object is closed, and the image would lack its end."""
    with H5File() as file:
        file.group("g", {"n": np.int64(1)})
        file.array("g/a", np.arange(5), {"kind": "array"})
        held = h5py.h5d.open(file._file, b"g/a")
        image = bytes(file.image())
    assert not held.valid
    with h5py.File(io.BytesIO(image)) as found:
        assert found["g/a"][()].tolist() == [0, 1, 2, 3, 4]
        assert dict(found["g/a"].attrs) == {"kind": "array"}


def test_room_is_filled_by_patches_alone():
    with H5File() as file:
        places = [file.room(name, 3, np.dtype(kind), {"kind": name}) for name, kind in (("a", "i8"), ("b", "?"))]
        outline = bytes(file.image())
    wanted = np.array([1, -2, 2**60]), np.array([True, False, True])
    with H5File(outline, {at: values.tobytes() for at, values in zip(places, wanted, strict=True)}) as file:
        file.array("c", np.arange(4), {})
        image = bytes(file.image())
    for bits, values in ((outline, [np.zeros(3), np.zeros(3)]), (image, wanted)):
        with h5py.File(io.BytesIO(bits)) as found:
            assert [found[name][()].tolist() for name in "ab"] == [part.tolist() for part in values]
            assert found["b"].dtype == np.bool_
            assert found["a"].attrs["kind"] == "a"
