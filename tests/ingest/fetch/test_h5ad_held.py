"""A small remote file is fetched whole, a bounded number of bytes at once, and against the store's checksum."""

from __future__ import annotations

import threading
from pathlib import Path

import gcsfs
import numpy as np
import pytest

from ingest.errors import CorruptError, SourceChangedError
from ingest.fetch import h5ad_remote
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.h5ad import H5adFetcher
from ingest.fetch.h5ad_open import open_h5ad
from ingest.fetch.h5ad_remote import RemoteBytes
from ingest.retry import Budget, Retrier
from ingest.survey.h5ad import survey_h5ad
from ingest.testing.fault_proxy import Fault, FaultProxy
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

MIB = 1 << 20


@pytest.fixture
def proxy(gcs_server, monkeypatch):
    gcs_server.create_bucket("held")
    with FaultProxy(gcs_server.endpoint_url) as found:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.endpoint_url)
        yield found


def put(gcs_server, name, data):
    filesystem = gcsfs.GCSFileSystem(token="anon", endpoint_url=gcs_server.endpoint_url)  # noqa: S106  # no credentials
    filesystem.pipe_file(f"held/{name}", data)
    return f"gs://held/{name}"


def h5ad(gcs_server, folder, name="a.h5ad", layout="csr", n_cells=400):
    matrix = sample_counts(n_cells, 300)
    path = write_h5ad_variant(folder / name, matrix, layout=layout)
    return put(gcs_server, name, path.read_bytes()), matrix


def fetcher(url, memory_bytes=64 * MIB):
    survey = survey_h5ad(open_h5ad(url).source)
    return H5adFetcher(survey, survey.genes, FetchOptions(), FetchLimits(memory_bytes, 1, Path("/tmp")))  # noqa: S108


def media(proxy):
    return [seen for seen in proxy.seen if "alt=media" in seen.path or "/download/" in seen.path]


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_most_of_a_small_file_is_read_in_one_piece(gcs_server, proxy, tmp_path, monkeypatch, layout):
    monkeypatch.setattr(h5ad_remote, "_HEAD_BYTES", 0)  # so that the file is not one of a few blocks
    monkeypatch.setattr(h5ad_remote, "_TAIL_BYTES", 0)
    monkeypatch.setattr(h5ad_remote, "_BLOCK_BYTES", 1 << 16)
    url, matrix = h5ad(gcs_server, tmp_path, layout=layout)
    reader = fetcher(url)
    size = open_h5ad(url).size_bytes
    rows = np.arange(0, 400, 2)
    before = len(media(proxy))
    assert (_csr(reader.read(rows).counts) != matrix[rows]).nnz == 0
    step = 8 << 16
    wanted = {f"bytes={start}-{min(start + step, size) - 1}" for start in range(0, size, step)}
    assert sorted(seen.headers.get("range") for seen in media(proxy)[before:]) == sorted(wanted)
    reader.read(np.arange(1, 400, 2))
    assert len(media(proxy)) == before + len(wanted), "the second read comes from memory"
    reader.close()


def test_a_file_of_a_few_blocks_comes_in_one_piece_when_it_is_opened(gcs_server, proxy, tmp_path):
    url, matrix = h5ad(gcs_server, tmp_path)
    survey = survey_h5ad(open_h5ad(url).source)
    before = len(media(proxy))
    reader = H5adFetcher(survey, survey.genes, FetchOptions(), FetchLimits(64 * MIB, 1, tmp_path))
    assert (_csr(reader.read(np.arange(3)).counts) != matrix[:3]).nnz == 0
    reader.close()
    assert len(media(proxy)) == before + 1


def _csr(counts):
    from scipy import sparse

    return sparse.csr_matrix((counts.data, counts.indices, counts.indptr), (counts.n_cells, counts.n_genes))


@pytest.mark.usefixtures("proxy")
def test_some_rows_of_a_file_are_read_by_ranges(gcs_server, tmp_path):
    url, _ = h5ad(gcs_server, tmp_path)
    reader = fetcher(url)
    assert not reader._is_held_whole(10)
    assert reader._is_held_whole(100)
    reader.close()
    reader = fetcher(url, memory_bytes=1 * MIB // 4)
    assert not reader._is_held_whole(400), "too large for this worker"
    reader.close()


def test_a_flipped_bit_is_noticed_and_fetched_again(gcs_server, proxy):
    data = np.random.default_rng(0).bytes(3 * MIB)
    stream = RemoteBytes(put(gcs_server, "blob", data))
    proxy.faults.append(Fault("flip-reply", lambda seen: "range" in seen.headers))
    with pytest.raises(CorruptError) as raised:
        stream.hold()
    assert raised.value.kind == "checksum"
    stream.hold()
    found = bytearray(len(data))
    stream.copy(0, memoryview(found))
    assert found == data


def test_a_flipped_bit_never_reaches_a_chunk(gcs_server, proxy, tmp_path):
    url, matrix = h5ad(gcs_server, tmp_path)
    reader = fetcher(url)
    size = open_h5ad(url).size_bytes
    whole = f"bytes=0-{size - 1}"
    reader._file._stream._held = None  # as of a file of more blocks
    proxy.faults.append(Fault("flip-reply", lambda seen: seen.headers.get("range") == whole))
    # As a worker does (`ingest.open_sources`).
    found = Retrier(Budget(attempts=3), sleep=lambda _: None).call(lambda _: reader.read(np.arange(400))).counts
    assert (_csr(found) != matrix).nnz == 0
    reader.close()


@pytest.mark.usefixtures("proxy")
def test_another_generation_is_another_file(gcs_server, tmp_path):
    url, _ = h5ad(gcs_server, tmp_path)
    reader = fetcher(url)
    h5ad(gcs_server, tmp_path, n_cells=399)
    with pytest.raises((SourceChangedError, CorruptError)):
        reader.read(np.arange(400))
    reader.close()


def test_a_file_that_changes_while_it_is_fetched(gcs_server, proxy, monkeypatch):
    monkeypatch.setattr(h5ad_remote, "_BUDGET", Budget(attempts=1))
    rng = np.random.default_rng(0)
    for other in (rng.bytes(2 * MIB), rng.bytes(2 * MIB - 5)):
        stream = RemoteBytes(put(gcs_server, "moving", rng.bytes(2 * MIB)))
        put(gcs_server, "moving", other)
        with pytest.raises(SourceChangedError):
            stream.hold()
    assert proxy.seen


def test_bytes_in_flight_are_bounded(monkeypatch):
    size = 100 * MIB + 17
    lock, flying, most = threading.Lock(), [0], [0]
    gate = threading.Barrier(4, timeout=120)

    class Slow:
        def info(self, _):
            return {"size": size, "generation": "1", "type": "file"}

        def cat_file(self, _, start, end):
            with lock:
                flying[0] += end - start
                most[0] = max(most[0], flying[0])
            if end <= 96 * MIB:
                gate.wait()  # four are under way at once, and no fifth one
            with lock:
                flying[0] -= end - start
            return bytes(end - start)

    monkeypatch.setattr(h5ad_remote, "remote_filesystem", lambda _: Slow())
    stream = RemoteBytes("gs://b/k")
    stream.hold()
    assert most[0] == 32 * MIB
    assert stream.bytes_read == size


def test_looking_at_a_file_takes_its_beginning_and_its_end_at_once(gcs_server, proxy):
    data = np.random.default_rng(0).bytes(9 * MIB + 5)
    stream = RemoteBytes(put(gcs_server, "long", data))
    before = len(media(proxy))
    stream.warm()
    assert len(media(proxy)) - before == 2
    for position, length in ((0, 100), (MIB - 7, 7), (8 * MIB, 900), (len(data) - 50, 50)):
        found = bytearray(length)
        stream.copy(position, memoryview(found))
        assert found == data[position : position + length]
    assert len(media(proxy)) - before == 2
