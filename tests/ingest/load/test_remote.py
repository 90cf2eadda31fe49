"""Datasets in buckets: the same cells, in few requests, and from the local disk the second time."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from ingest.errors import ConfigError, CorruptError
from ingest.load.dataset import open_chunks
from ingest.load.torch.create import create_dataloader
from ingest.store.open import open_store
from ingest.testing.damage import flip_bit

N = 106


@pytest.fixture(scope="module")
def bucket(gcs_server):
    """Return a look-alike's bucket, to which this module's environment leads."""
    with environment_of(gcs_server):
        yield gcs_server.create_bucket("load")


@contextmanager
def environment_of(server):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield


def upload(folder, url):
    store = open_store(url)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.put_new(path.relative_to(folder).as_posix(), path.read_bytes())
    store.close()
    return url


@pytest.fixture(scope="module")
def urls(bucket, shelf):
    return {
        kind: upload(shelf.made(kind), f"{bucket}/{kind}") for kind in ("float32-deflate", "h5-lz4", "float32-none")
    }


def dense(counts):
    found = np.zeros((counts.n_cells, counts.n_genes))
    for row in range(counts.n_cells):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        found[row, counts.indices[part]] = counts.data[part]
    return found


@pytest.mark.parametrize("kind", ["float32-deflate", "h5-lz4", "float32-none"])
@pytest.mark.parametrize("disk_cache_bytes", [0, 1 << 30])
def test_the_same_cells(urls, shelf, tmp_path, kind, disk_cache_bytes):
    plain = shelf.plain(kind)
    whole = plain.matrix.toarray()
    rng = np.random.default_rng(0)
    for _ in range(2):
        options = {"cache_dir": str(tmp_path), "disk_cache_bytes": disk_cache_bytes, "cache_bytes": 0}
        with open_chunks(urls[kind], **options) as cells:
            np.testing.assert_array_equal(dense(cells.counts(range(N))), whole)
            for _ in range(5):
                rows, genes = rng.integers(0, N, 20), rng.permutation(40)[:7]
                np.testing.assert_array_equal(dense(cells.counts(rows, genes=genes)), whole[rows][:, genes])
            assert cells.cell_ids(range(N)) == plain.names
            assert cells.where("age == 2").tolist() == np.flatnonzero(plain.obs.age == 2).tolist()
            assert cells.measured().all()


def test_s3(s3_server, shelf, tmp_path):
    """One dataset, with disk cache: this look-alike is a slow one."""
    plain = shelf.plain("float32-lz4")
    with environment_of(s3_server):
        url = upload(shelf.made("float32-lz4"), f"{s3_server.create_bucket('load')}/lz4")
        with open_chunks(url, cache_dir=str(tmp_path), disk_cache_bytes=1 << 30, cache_bytes=0) as cells:
            for _ in range(2):
                np.testing.assert_array_equal(dense(cells.counts(range(N))), plain.matrix.toarray())
            assert cells.cell_ids([5, 100]) == [plain.names[5], plain.names[100]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader(urls, plain, tmp_path, workers):
    loader = create_dataloader(
        urls["float32-deflate"],
        20,
        window_cells=40,
        cache_dir=str(tmp_path),
        disk_cache_bytes=1 << 20,
        num_workers=workers,
    )
    for _ in range(2):
        seen = []
        for expression, metadata in loader:
            rows = plain.obs.index.get_indexer(metadata["cell_id"])
            np.testing.assert_array_equal(expression.numpy(), plain.matrix[rows].toarray())
            seen += rows.tolist()
        assert sorted(seen) == list(range(N))
    loader.close()


def count_requests(monkeypatch):
    from ingest.load.read.ranges import StoredChunks

    asked, original = [], StoredChunks._get

    def counted(self, at, start, length):
        asked.append((at, start, length))
        return original(self, at, start, length)

    monkeypatch.setattr(StoredChunks, "_get", counted)
    return asked


def test_the_disk_cache_spares_the_bucket(urls, tmp_path, monkeypatch):
    asked = count_requests(monkeypatch)
    options = {"cache_dir": str(tmp_path), "disk_cache_bytes": 1 << 30, "cache_bytes": 0}
    with open_chunks(urls["float32-deflate"], **options) as cells:
        one = dense(cells.counts(range(N)))
        first = len(asked)
        assert first
        two = dense(cells.counts(range(N)))
    with open_chunks(urls["float32-deflate"], **options) as cells:
        three = dense(cells.counts(range(N)))
    assert len(asked) == first
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_neighbouring_blocks_are_one_request(urls, tmp_path, monkeypatch):
    asked = count_requests(monkeypatch)
    with open_chunks(urls["float32-deflate"], cache_dir=str(tmp_path)) as cells:
        cells.counts(range(19))
    assert {at for at, _, _ in asked} == {0}
    assert len(asked) <= 6  # of some fifteen blocks of two arrays


@pytest.mark.parametrize("damage", ["flipped", "cut", "log", "gone", "no log"])
def test_a_damaged_disk_cache_is_not_believed(urls, shelf, tmp_path, damage):
    whole = shelf.plain("float32-deflate").matrix.toarray()
    options = {"cache_dir": str(tmp_path), "disk_cache_bytes": 1 << 30, "cache_bytes": 0}
    with open_chunks(urls["float32-deflate"], **options) as cells:
        cells.counts(range(N))
        for path in (tmp_path / "chunks").iterdir():
            data = path.read_bytes()
            if path.suffix == ".bytes" and damage == "flipped":
                for at in range(0, len(data), 97):
                    flip_bit(path, at=at)
            elif path.suffix == ".bytes" and damage == "cut":
                path.write_bytes(data[: len(data) // 2])
            elif path.suffix == ".log" and damage == "log":
                path.write_bytes(data[:-13] + b"torn")
            elif damage == "gone" or (path.suffix == ".log" and damage == "no log"):
                path.unlink()
        np.testing.assert_array_equal(dense(cells.counts(range(N))), whole)
    for _ in range(2):
        with open_chunks(urls["float32-deflate"], **options) as cells:
            np.testing.assert_array_equal(dense(cells.counts(range(N))), whole)


def test_a_disk_cache_has_a_largest_size(urls, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.load.read.disk_cache._SWEEP_BYTES", 1)
    whole = shelf.plain("float32-none").matrix.toarray()
    with open_chunks(urls["float32-none"], cache_dir=str(tmp_path), disk_cache_bytes=8000, cache_bytes=0) as cells:
        for _ in range(2):
            for start in range(0, N, 10):
                rows = range(start, min(start + 10, N))
                np.testing.assert_array_equal(dense(cells.counts(rows)), whole[start : start + 10])
    held = sum(path.stat().st_blocks * 512 for path in (tmp_path / "chunks").glob("*.bytes"))
    assert held <= 8000 + 4096


def test_a_folder_that_cannot_be_written(urls, shelf, tmp_path):
    """Chunks are read without it; the tables, which are mapped, need one."""
    (tmp_path / "chunks").write_text("a file where the folder would be")
    options = {"cache_dir": str(tmp_path), "disk_cache_bytes": 1 << 30}
    with open_chunks(urls["float32-deflate"], **options) as cells:
        np.testing.assert_array_equal(dense(cells.counts(range(N))), shelf.plain("float32-deflate").matrix.toarray())
    with (
        open_chunks(urls["float32-deflate"], cache_dir=str(tmp_path / "chunks" / "below")) as cells,
        pytest.raises(ConfigError, match="cannot be written") as raised,
    ):
        cells.where("age == 1")
    assert "cache_dir" in raised.value.hint


def test_what_a_bucket_lacks(bucket, damageable, tmp_path):
    dest = damageable()
    dest.chunk(2).unlink()
    (dest.path / "metadata" / "cells.feather").unlink()
    (dest.path / "metadata" / "presence.npz").unlink()
    url = upload(dest.path, f"{bucket}/lacking-{tmp_path.name}")
    options = {"cache_dir": str(tmp_path / "cache"), "disk_cache_bytes": 1 << 20}
    with open_chunks(url, **options) as cells:
        assert len(cells.counts(range(38)).data)
        with pytest.raises(CorruptError, match=r"chunk_000002.h5ad is missing") as raised:
            cells.counts(range(N))
        assert (raised.value.chunk, f"repair {url}" in raised.value.hint) == (2, True)
        with pytest.raises(CorruptError, match=r"cells.feather"):
            cells.where("age == 1")
    (dest.path / "chunk_offsets.feather").unlink()
    url = upload(dest.path, f"{bucket}/more-{tmp_path.name}")
    with open_chunks(url, **options) as cells, pytest.raises(CorruptError, match=r"chunk_offsets.feather"):
        cells.counts([0])
    with pytest.raises(ConfigError, match="holds no finished dataset"):
        open_chunks(f"{bucket}/nothing")


def test_after_repair_the_disk_cache_has_the_good_bytes(bucket, damageable, plain, tmp_path):
    """The repaired chunk is the same file, byte for byte, as the one whose damaged bytes were kept."""
    dest = damageable()
    good = dest.chunk(2).read_bytes()
    table = open_chunks(dest.path)._open()._chunks[0]._layouts.of(2, "X/data")
    flip_bit(dest.chunk(2), at=int(table.offsets[0]) + 9)
    url = upload(dest.path, f"{bucket}/repaired-{tmp_path.name}")
    options = {"cache_dir": str(tmp_path / "cache"), "disk_cache_bytes": 1 << 20}
    with open_chunks(url, **options) as cells, pytest.raises(CorruptError, match="chunk_000002"):
        cells.counts(range(N))
    store = open_store(url)
    store.replace("chunks/chunk_000002.h5ad", good, expected=store.stat("chunks/chunk_000002.h5ad").version)
    store.close()
    with open_chunks(url, **options) as cells:
        np.testing.assert_array_equal(dense(cells.counts(range(N))), plain.matrix.toarray())
