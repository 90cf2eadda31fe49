"""The look-alikes serve other clients too: gcsfs and s3fs, which people read their data with."""

import os

import gcsfs.core
import pytest
import s3fs

from ingest.testing.fault_proxy import FaultProxy

# gcsfs hands aiohttp its bodies whole; our own store does not.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")

ANYONE = {"token": "anon", "use_listings_cache": False, "skip_instance_cache": True}

# Sizes around gcsfs' own limits: one request, one part, several parts.
DATA = os.urandom(6 << 20)


@pytest.fixture
def gcs(gcs_server):
    gcs_server.create_bucket("others")
    return gcsfs.core.GCSFileSystem(endpoint_url=gcs_server.endpoint_url, **ANYONE)


def test_gcsfs_writes_and_reads(gcs):
    gcs.pipe("others/small", b"\r\n--==0==\r\n\n")
    gcs.pipe("others/empty", b"")
    with gcs.open("others/large", "wb") as file:
        file.write(DATA)
    assert gcs.cat("others/small") == b"\r\n--==0==\r\n\n"
    assert gcs.cat("others/empty") == b""
    with gcs.open("others/large", "rb") as file:
        file.seek(1_000_000)
        assert file.read(100) == DATA[1_000_000:1_000_100]
    assert gcs.cat("others/large") == DATA


def test_gcsfs_creates_exclusively(gcs):
    gcs.pipe("others/once", b"1", mode="create")
    with pytest.raises(FileExistsError):
        gcs.pipe("others/once", b"2", mode="create")
    assert gcs.cat("others/once") == b"1"


def test_gcsfs_lists_folders_over_several_pages(gcs):
    for i in range(3):
        gcs.pipe(f"others/pages/{i}/k", b"")
    assert gcs.ls("others/pages") == [f"others/pages/{i}" for i in range(3)]
    assert gcs.find("others/pages") == [f"others/pages/{i}/k" for i in range(3)]


def test_s3fs_writes_and_reads(s3_server, monkeypatch):
    s3_server.create_bucket("others")
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3 = s3fs.S3FileSystem(endpoint_url=s3_server.endpoint_url, skip_instance_cache=True)
    s3.pipe("others/k", DATA)
    assert s3.cat("others/k") == DATA
    assert s3.cat_file("others/k", start=10, end=20) == DATA[10:20]
    assert s3.ls("others", refresh=True) == ["others/k"]


def test_the_proxy_passes_everything_on(gcs_server):
    with FaultProxy(gcs_server.endpoint_url) as proxy:
        fs = gcsfs.core.GCSFileSystem(endpoint_url=proxy.endpoint_url, **ANYONE)
        gcs_server.create_bucket("proxied")
        fs.pipe("proxied/k", DATA)
        assert fs.cat("proxied/k") == DATA
        assert {seen.method for seen in proxy.seen} >= {"GET", "POST"}
