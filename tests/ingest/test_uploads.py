from __future__ import annotations

import json
import logging
import threading
from types import SimpleNamespace

import pytest

from ingest.chunks import Committed, MadeChunk
from ingest.errors import TransientError
from ingest.json_lines import about, start_json_lines, stop_json_lines
from ingest.uploads import Uploads


def made(chunk, n_bytes=10):
    entry = SimpleNamespace(chunk=chunk, n_cells=chunk + 1, nnz=100 + chunk)
    return MadeChunk(SimpleNamespace(data=bytes(n_bytes)), entry)


class Gate:
    """A commit that waits until it is let through, chunk by chunk."""

    def __init__(self):
        self.begun, self.open = [], {}
        self._lock = threading.Lock()

    def __call__(self, made_chunk):
        chunk = made_chunk.entry.chunk
        with self._lock:
            self.begun.append(chunk)
            gate = self.open.setdefault(chunk, threading.Event())
        gate.wait(120)
        return Committed(made_chunk.entry, 5, adopted=False)

    def let(self, *chunks):
        for chunk in chunks:
            with self._lock:
                gate = self.open.setdefault(chunk, threading.Event())
            gate.set()


@pytest.fixture
def gate():
    return Gate()


def uploads(commit, **limits):
    return Uploads(commit, **{"threads": 2, "most_bytes": 25, **limits})


def test_every_commit_is_told_once_with_what_it_was(gate):
    gate.let(*range(5))
    under_way = uploads(gate)
    told = []
    for chunk in range(5):
        told += under_way.wait_for_room(10)
        under_way.submit(made(chunk))
    told += under_way.drain()
    assert list(under_way.drain()) == []
    under_way.close()
    assert sorted((landed.chunk, landed.n_cells, landed.nnz) for landed in told) == [
        (chunk, chunk + 1, 100 + chunk) for chunk in range(5)
    ]
    assert all(landed.committed.bytes_written == 5 and landed.error is None for landed in told)
    assert all(landed.seconds >= 0 for landed in told)


def test_files_under_way_stay_within_the_bound(gate):
    under_way = uploads(gate)
    for chunk in (0, 1):
        assert list(under_way.wait_for_room(10)) == []
        under_way.submit(made(chunk))
    threading.Timer(0.2, gate.let, [1]).start()
    assert [landed.chunk for landed in under_way.wait_for_room(10)] == [1]
    gate.let(0)
    assert [landed.chunk for landed in under_way.drain()] == [0]
    under_way.close()


def test_a_file_larger_than_the_bound_goes_alone(gate):
    under_way = uploads(gate)
    under_way.submit(made(0))
    threading.Timer(0.2, gate.let, [0]).start()
    assert [landed.chunk for landed in under_way.wait_for_room(1000)] == [0]
    gate.let(1)
    under_way.submit(made(1, 1000))
    assert [landed.chunk for landed in under_way.drain()] == [1]
    under_way.close()


def test_an_error_is_told_and_keeps_nothing_else_back():
    def commit(made_chunk):
        if made_chunk.entry.chunk == 1:
            raise TransientError("503")
        return Committed(made_chunk.entry, 5, adopted=False)

    under_way = uploads(commit, most_bytes=1000)
    for chunk in range(3):
        under_way.submit(made(chunk))
    told = {landed.chunk: landed for landed in under_way.drain()}
    under_way.close()
    assert isinstance(told[1].error, TransientError)
    assert told[1].committed is None
    assert told[0].committed is not None
    assert told[2].committed is not None


def test_what_is_called_off_never_begins_and_what_has_begun_ends(gate):
    under_way = uploads(gate, threads=1, most_bytes=1000)
    for chunk in range(3):
        under_way.submit(made(chunk))
    while gate.begun != [0]:
        pass
    under_way.call_off()
    gate.let(0, 1, 2)
    told = {landed.chunk: landed for landed in under_way.drain()}
    under_way.close()
    assert gate.begun == [0]
    assert told[0].committed is not None
    assert [(told[chunk].committed, told[chunk].error) for chunk in (1, 2)] == [(None, None)] * 2


def test_what_is_logged_on_the_way_says_which_chunk_of_which_unit(capsys):
    def commit(made_chunk):
        logging.getLogger("botocore").warning("slow")
        return Committed(made_chunk.entry, 5, adopted=False)

    start_json_lines()
    try:
        under_way = uploads(commit)
        with about(unit=3):
            under_way.submit(made(7))
        list(under_way.drain())
        under_way.close()
    finally:
        stop_json_lines()
    line = json.loads(capsys.readouterr().err)
    assert (line["unit"], line["chunk"], line["message"]) == (3, 7, "slow")
