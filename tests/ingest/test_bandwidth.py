"""A shared line is kept to, by a clock of the tests' own: below the store, below every reader, and by deadlines."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.bandwidth import LEAST_SHARE, Line, share_of
from ingest.errors import ConfigError
from ingest.fetch import soma
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.h5ad import H5adFetcher
from ingest.fetch.open import open_fetcher
from ingest.fetch.tiles import folder as tiles_folder
from ingest.opened import open_plan
from ingest.preparing import divide_work, profile_of_plan
from ingest.running import run_units
from ingest.settings import WorkSettings
from ingest.source import Source
from ingest.store.gcs import GCSStore
from ingest.store.open import open_store
from ingest.store.s3 import S3Store
from ingest.store.url import parse_store_url
from ingest.survey.h5ad import survey_h5ad
from ingest.survey.soma import survey_soma
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.datasets import SilentObserver, make_dataset, write_h5ad_index, write_sources
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

MB = 1_000_000

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Clock:
    """Time passes when somebody sleeps, and when nobody does by `idle`."""

    def __init__(self):
        self.now, self.slept = 1_000.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    idle = sleep


def slow_line(bytes_per_s, clock=None):
    clock = clock or Clock()
    return Line(bytes_per_s, clock=clock, sleep=clock.sleep), clock


REQUESTS = st.lists(
    st.tuples(st.sampled_from(["begin", "owe", "more", "idle"]), st.integers(0, 20 * MB)), min_size=1, max_size=60
)


@given(requests=REQUESTS, rate=st.integers(100_000, 100 * MB))
def test_the_line_carries_its_rate_and_beyond_it_what_one_request_brings(requests, rate):
    line, clock = slow_line(rate)
    start, largest, carried = clock.now, 0, 0
    for kind, number in requests:
        if kind == "idle":
            clock.idle(number / MB)
            continue
        if kind == "begin":
            line.begin()  # what went before is paid for now
            assert carried <= rate * (clock.now - start + 1.0) * (1 + 1e-9) + rate * 0.002 + 1
        getattr(line, kind)(number)
        carried += number
        largest = max(largest, number)
    assert line.n_bytes == carried
    assert max(clock.slept, default=0.0) < 20 * MB * len(requests) / rate + 20


def test_a_body_does_not_stand_still_until_the_other_side_hangs_up():
    line, clock = slow_line(LEAST_SHARE)
    line.begin(64 * MB)  # another thread's request
    line.more(16_384)
    assert clock.slept == [5.0]
    line.begin()  # which waits for all of it
    assert clock.now - 1_000.0 == pytest.approx((64 * MB + 16_384) / LEAST_SHARE - 1.0)


def test_without_a_limit_nobody_waits_and_all_is_counted():
    clock = Clock()
    line = Line(clock=clock, sleep=clock.sleep)
    line.begin(5, n_requests=3)
    line.owe(7)
    line.more(11)
    assert (line.n_bytes, line.n_requests, clock.slept, line.most_at_once_bytes) == (23, 3, [], None)


@pytest.mark.parametrize(("rate", "workers"), [(None, 5), (100 * MB, 16), (LEAST_SHARE * 3, 3)])
def test_each_worker_has_an_equal_share(rate, workers):
    assert share_of(rate, workers) == (None if rate is None else rate / workers)


def test_a_share_on_which_nobody_can_live_is_refused_with_what_would_do():
    with pytest.raises(ConfigError, match="--bandwidth 1: 125 kB/s for each of 8 workers") as refused:
        share_of(1 * MB, 8)
    assert refused.value.hint == "a worker needs 0.25 MB/s to get anywhere: -d 4 would do"
    with pytest.raises(ConfigError) as refused:
        share_of(0.1 * MB, 1)
    assert refused.value.hint == "a worker needs 0.25 MB/s to get anywhere"


@pytest.fixture
def aws(s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.mark.parametrize("single_put_bytes", [1 << 30, 5_500_000], ids=["one-put", "parts"])
def test_an_upload_to_s3_pays_for_every_byte_once_as_it_goes(aws, single_put_bytes, request):
    line, clock = slow_line(1 * MB)
    where = parse_store_url(f"{aws.create_bucket('line')}/{request.node.callspec.id}")
    sizes = {"single_put_bytes": single_put_bytes, "part_bytes": 5 << 20}
    store = S3Store(where, endpoint_url=aws.endpoint_url, line=line, **sizes)
    before, data = line.n_bytes, bytes(6 * MB)
    store.put_new("k", memoryview(data))
    # Signing reads a body, too, where there is no TLS; only what is sent counts.
    assert line.n_bytes - before == pytest.approx(len(data), abs=20_000)
    assert clock.now - 1_000.0 == pytest.approx(5.0, abs=0.1)
    assert max(clock.slept) < 0.2  # in small steps, not all at once
    assert store.get("k") == data
    assert store.get_range("k", 5, 7) == data[5:12]
    assert line.n_bytes - before == pytest.approx(2 * len(data), abs=20_000)
    store.close()


def test_an_upload_to_gcs_pays_for_every_byte_once_as_it_goes(gcs_server):
    class Told(Line):
        """Counts what it was asked for a body, and lets it pass."""

        pieces = ()

        def delay_s(self, n_bytes):
            self.pieces = (*self.pieces, n_bytes)
            return min(super().delay_s(n_bytes), 0.001)

    line, clock = Told(1 * MB, clock=(clock := Clock()), sleep=clock.sleep), clock
    store = GCSStore(parse_store_url(gcs_server.create_bucket("line")), endpoint_url=gcs_server.endpoint_url, line=line)
    store.put_new("k", bytes(3 * MB))
    assert 3 * MB <= sum(line.pieces) < 3 * MB + 1_000
    assert max(line.pieces) <= 1 << 20
    assert store.get("k") == bytes(3 * MB)  # begins when the body is paid for
    assert clock.now - 1_000.0 == pytest.approx(2.0, abs=0.1)
    store.stat("k")  # and this one when what was read is
    assert clock.now - 1_000.0 == pytest.approx(5.0, abs=0.1)
    store.close()


def put_folder(server, bucket, folder, prefix):
    server.create_bucket(bucket)
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",  # noqa: S106  # the look-alike's
        region_name="us-east-1",
    )
    for path in Path(folder).rglob("*"):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
    client.close()


@pytest.fixture(scope="module")
def census(s3_server, tmp_path_factory):
    """A Census in a bucket: its URL."""
    spec = CensusSpec(n_cells=3_000, n_genes=500, mean_nnz_per_cell=60)
    put_folder(s3_server, "line", build_census(tmp_path_factory.mktemp("line") / "mini", spec).path, "census")
    return "s3://line/census"


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("way", ["tiles", "tiledb"])
def test_a_census_in_a_bucket_is_read_in_groups_that_wait_for_each_other(census, tmp_path, monkeypatch, way):
    monkeypatch.setenv(soma.READER_VARIABLE, way)
    monkeypatch.setattr("ingest.bandwidth._LEAST_AT_ONCE", 100_000)
    line, clock = slow_line(0.1 * MB)
    limits = FetchLimits(64 << 20, 1, tmp_path, line)
    source = Source("soma", census, "", "homo_sapiens")
    found = survey_soma(source, FetchLimits(64 << 20, 1, tmp_path), datasets=None)
    groups = []
    read = tiles_folder.RemoteArray._read
    monkeypatch.setattr(
        tiles_folder.RemoteArray,
        "_read",
        lambda self, spans: (groups.append(sum(stop - start for _, start, stop in spans)), read(self, spans))[1],
    )
    fetcher = open_fetcher(found, found.genes, FetchOptions(), limits)
    assert fetcher.reads_tiles == (way == "tiles")
    before, groups[:] = line.n_bytes, []
    fetched = fetcher.read(np.arange(3_000))
    carried = line.n_bytes - before
    assert fetched.counts.nnz == found.nnz
    line.begin()
    assert clock.now - 1_000.0 == pytest.approx(line.n_bytes / (0.1 * MB) - 1.0, abs=0.1)
    if way == "tiles":
        assert carried == sum(groups)
        assert 0 <= carried - fetched.bytes_read < 1_000  # the fragments' own tables are read with the first cells
        assert len(groups) > 1
        assert max(groups) < 0.7 * carried
    else:  # by what the stored entries take: TileDB does not tell
        assert carried == pytest.approx(found.stored_bytes, rel=0.01)
    fetcher.close()


def test_an_h5ad_in_a_bucket_keeps_to_the_line(aws, tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(3_000, 800, seed=1), layout="csr")
    put_folder(aws, "line", tmp_path, "files")
    line, clock = slow_line(0.5 * MB)
    found = survey_h5ad(Source.parse("s3://line/files/a.h5ad"), line=line)
    surveyed = line.n_bytes
    assert surveyed > 0
    fetcher = H5adFetcher(found, found.genes, FetchOptions(), FetchLimits(64 << 20, 1, tmp_path, line))
    fetcher.read(np.arange(3_000))
    assert line.n_bytes - surveyed >= path.stat().st_size
    line.begin()
    assert clock.now - 1_000.0 == pytest.approx(line.n_bytes / (0.5 * MB) - 1.0, abs=0.1)
    fetcher.close()


class Asked:
    """A pool that makes nothing and remembers how long it was given."""

    size = 1

    def __init__(self, share, deadlines):
        self._share, self._deadlines = share, deadlines

    def has_free(self):
        return True

    def submit(self, _task, *, deadline_s):
        self._deadlines[self._share] = deadline_s
        raise KeyboardInterrupt


def test_who_is_held_back_is_not_taken_to_hang(tmp_path):
    index = write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources", n_files=1))
    make_dataset(str(tmp_path / "dest"), index, stop_requested=lambda: True)
    opened = open_plan(open_store(str(tmp_path / "dest")))
    deadlines = {}

    @contextmanager
    def open_pool(factory, _size, **_):
        yield Asked(factory.bytes_per_s, deadlines)

    for rate in (None, 1 * MB):
        settings = WorkSettings(workers=2, bytes_per_s=rate)
        work = divide_work(profile_of_plan(opened, settings), opened, (), settings)
        work = replace(work, workers=2, profile=replace(work.profile, read_to=work.profile.read_to + 3e9))
        with pytest.raises(KeyboardInterrupt):
            run_units(opened, work, settings, open_pool, SilentObserver(), stop_requested=lambda: False)
    # 3 GB at half a megabyte a second take 6,000 s to read alone.
    assert deadlines[None] == pytest.approx(3_600, rel=0.01)
    assert deadlines[0.5 * MB] > 2 * 6_000


def test_a_run_keeps_to_its_line_and_makes_the_same(aws, tmp_path, monkeypatch):
    """A real run against a bucket: its worker's line carries what was read and written, at its share."""
    index = write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources", n_files=1))
    plain = make_dataset(str(tmp_path / "plain"), index, work=WorkSettings(workers=1))
    lines = []

    class Kept(Line):
        def __init__(self, bytes_per_s=None, **_):
            clock = Clock()
            super().__init__(bytes_per_s, clock=clock, sleep=clock.sleep)
            lines.append((bytes_per_s, self, clock))

    monkeypatch.setattr("ingest.worker.Line", Kept)
    settings = WorkSettings(workers=1, bytes_per_s=1 * MB)
    dest = f"{aws.create_bucket('line')}/run"
    made = make_dataset(dest, index, work=settings)
    assert made.report.finished.digest == plain.report.finished.digest
    ((rate, line, clock),) = lines
    assert rate == 1 * MB
    assert line.n_bytes > made.report.finished.bytes
    assert sum(clock.slept) >= line.n_bytes / rate - 1.5


def test_fewer_workers_where_the_line_feeds_fewer(tmp_path):
    index = write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources", n_files=4))
    made = make_dataset(str(tmp_path / "dest"), index, stop_requested=lambda: True)
    opened = made.reopen()
    settings = WorkSettings(bytes_per_s=1.2 * LEAST_SHARE)
    profile = profile_of_plan(opened, settings)
    assert divide_work(profile, opened, (), settings).workers == 1
    assert divide_work(profile, opened, (), WorkSettings(workers=2)).workers == 2
    with pytest.raises(ConfigError, match=r"--bandwidth 0\.3: 150 kB/s for each of 2 workers"):
        divide_work(profile, opened, (), replace(settings, workers=2))
