"""Which way a Census is read in, near and far: both deliver the same."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
import tiledbsoma

from ingest.errors import SourceError, TransientError
from ingest.fetch import soma
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.open import open_fetcher
from ingest.fetch.tiles.folder import RemoteArray
from ingest.source import Source, address_of
from ingest.survey.soma import survey_soma
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.servers import fast_s3_server
from ingest.testing.tiledb_upkeep import TileDBUpkeep

LIMITS = FetchLimits(64 << 20, 1, Path("unused"))
N_CELLS = 7_000


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=N_CELLS, n_genes=4_500, mean_nnz_per_cell=80)
    return build_census(tmp_path_factory.mktemp("census") / "mini", spec)


def client_of(server):
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",  # noqa: S106  # the look-alike's
        region_name="us-east-1",
    )


def copy_to(server, census, prefix):
    client = client_of(server)
    for path in Path(census.path).rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(census.path)}"
            client.put_object(Bucket="far", Key=key, Body=path.read_bytes())


@pytest.fixture(scope="module")
def far(census):
    """The same Census in a bucket."""
    with fast_s3_server() as server:
        server.create_bucket("far")
        copy_to(server, census, "census")
        yield server


@pytest.fixture(autouse=True)
def environ(monkeypatch, far):
    for name, value in far.environment.items():
        monkeypatch.setenv(name, value)


def survey(address):
    return survey_soma(Source("soma", address, "", "homo_sapiens"), LIMITS, datasets=None)


def open_way(found, monkeypatch=None, *, way="tiles"):
    if monkeypatch is not None:
        monkeypatch.setenv(soma.READER_VARIABLE, way)
    return open_fetcher(found, found.genes, FetchOptions(), LIMITS)


def same(one, other):
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(one.counts, name), getattr(other.counts, name))


def slabs():
    return [np.arange(start, min(start + 1_500, N_CELLS)) for start in range(0, N_CELLS, 1_500)]


def test_a_census_is_read_from_its_tiles_unless_tiledb_is_asked_for(census, monkeypatch):
    found = survey(address_of(census.uri))
    tiles, tiledb = open_way(found), open_way(found, monkeypatch, way="tiledb")
    assert (tiles.reads_tiles, tiledb.reads_tiles) == (True, False)
    rows = np.random.default_rng(0).permutation(N_CELLS)[:2_000]
    one, other = tiles.read(rows), tiledb.read(rows)
    same(one, other)
    files = [f for name in ("a0", "d0", "d1") for f in Path(census.path).glob(f"**/X/raw/__fragments/*/{name}.tdb")]
    assert (one.bytes_read, other.bytes_read) == (sum(f.stat().st_size for f in files), 0)


def test_an_array_in_the_middle_of_upkeep_is_read_through_tiledb(tmp_path, caplog):
    census = build_census(tmp_path / "mini", CensusSpec(n_cells=3_000, n_genes=500, mean_nnz_per_cell=20))
    raw = f"{census.uri}/census_data/homo_sapiens/ms/RNA/X/raw"
    found = survey(address_of(census.uri))
    before = open_way(found).read(np.arange(3_000))
    with tiledbsoma.open(raw, "w") as array:
        array.write(
            pa.table({"soma_dim_0": [0], "soma_dim_1": [absent_gene(before)], "soma_data": np.ones(1, np.float32)})
        )
    with_it = open_way(found).read(np.arange(3_000))
    assert with_it.counts.nnz == before.counts.nnz + 1
    TileDBUpkeep().consolidate(raw, "fragments")
    with caplog.at_level(logging.INFO):
        fetcher = open_way(found)
    assert not fetcher.reads_tiles
    assert "read through TileDB: a commit of kind 'vac'" in caplog.text
    same(fetcher.read(np.arange(3_000)), with_it)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted where Linux shows them")
def test_falling_back_leaves_no_file_open(tmp_path):
    census = build_census(tmp_path / "mini", CensusSpec(n_cells=2_100, n_genes=200, mean_nnz_per_cell=10))
    found = survey(address_of(census.uri))
    schema = next(Path(census.path).glob("**/X/raw/__schema/__*_*"))
    shutil.copyfile(schema, schema.with_name(schema.name[:-1] + ("1" if schema.name.endswith("0") else "0")))
    open_way(found).close()
    before = open_files()
    for _ in range(5):
        fetcher = open_way(found)
        assert not fetcher.reads_tiles
        fetcher.close()
    assert open_files() == before


def absent_gene(fetched):
    return int(np.setdiff1d(np.arange(500), fetched.counts.indices[: fetched.counts.indptr[1]])[0])


def test_from_a_bucket_with_the_next_read_under_way(census, monkeypatch):
    near = open_way(survey(address_of(census.uri)))
    found = survey("s3://far/census")
    tiles, tiledb = open_way(found), open_way(found, monkeypatch, way="tiledb")
    assert tiles.reads_tiles
    read_ahead = []
    load = RemoteArray.read
    monkeypatch.setattr(RemoteArray, "read", lambda self, spans: (read_ahead.append(len(spans)), load(self, spans))[1])
    parts = slabs()
    for rows, following in zip(parts, [*parts[1:], None], strict=True):
        if following is not None:
            tiles.expect(following)
        fetched = tiles.read(rows)
        same(fetched, near.read(rows))
        same(fetched, tiledb.read(rows))
        assert fetched.bytes_read > 0
    # What was loaded ahead was used: a call for each slab, and those for the tables of the fragments.
    n_fragments = len(list(Path(census.path).glob("**/X/raw/__fragments/*")))
    assert len(read_ahead) == len(parts) + n_fragments
    for one in (near, tiles, tiledb):
        one.close()


def test_an_expectation_that_does_not_come_true():
    tiles = open_way(survey("s3://far/census"))
    tiles.expect(np.arange(3_000, 4_000))
    first = tiles.read(np.arange(1_000))
    other = tiles.read(np.arange(5_000, 5_500))
    again = open_way(survey("s3://far/census"))
    same(first, again.read(np.arange(1_000)))
    same(other, again.read(np.arange(5_000, 5_500)))


def test_trouble_while_loading_ahead_is_met_when_it_matters(monkeypatch):
    tiles = open_way(survey("s3://far/census"))
    tiles.expect(np.arange(3_000, 4_000))
    wanted = open_way(survey("s3://far/census")).read(np.arange(3_000, 4_000))
    load, broken = RemoteArray.read, [True]

    def fail_when_ahead(self, spans):
        if threading.current_thread().name.startswith("tiles-ahead") and broken:
            broken.clear()
            raise TransientError("the network is down", kind="network")
        return load(self, spans)

    monkeypatch.setattr(RemoteArray, "read", fail_when_ahead)
    tiles.read(np.arange(1_000))
    same(tiles.read(np.arange(3_000, 4_000)), wanted)
    assert not broken


def test_an_object_that_has_gone(census, far):
    copy_to(far, census, "gone")
    tiles = open_way(survey("s3://far/gone"))
    client = client_of(far)
    for entry in client.list_objects_v2(Bucket="far", Prefix="gone/")["Contents"]:
        if entry["Key"].endswith("d1.tdb"):
            client.delete_object(Bucket="far", Key=entry["Key"])
    with pytest.raises(SourceError, match="there is no such file"):
        tiles.read(np.arange(10))
