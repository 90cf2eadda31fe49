"""A run that an older version began, kept as it left it: the sources, DEST half done, and how it must end.

One archive a version, made by that version and never again: ``python -m ingest.testing.begun begun-0.1.0.tar.gz``.
It lies in an S3 look-alike, whose addresses and ETags are the same on every machine: ETags count what is put.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pandas as pd

from ingest.fetch.h5ad_open import file_version
from ingest.layout import AMENDMENTS, FAILURES, PLAN_KEY, RUNS, SUCCESS_KEY, receipt_chunks
from ingest.source import Source
from ingest.store.open import open_store
from ingest.testing.datasets import make_dataset, write_sources
from ingest.testing.servers import fast_s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.store.base import Store

__all__ = ["BUCKET", "DEST", "begin", "restore"]

BUCKET = "begun"
DEST = f"s3://{BUCKET}/dest"
_N_DONE, _N_WRITTEN = 3, 4
"""Chunks with a receipt; chunks whose object is there."""


def begin() -> dict[str, bytes]:
    """Make a run, whole, then take away what came after its fourth chunk; a look-alike must be in the environment.

    Returns
    -------
    dict
        Key -> bytes of all objects in the bucket, and ``expected.json``: the ``_SUCCESS.json`` of the whole run.
    """
    store = open_store(f"s3://{BUCKET}/sources")
    with tempfile.TemporaryDirectory() as scratch:
        frames = []
        for path in write_sources(Path(scratch), n_files=2, n_cells=30):
            store.put_new_file(path.name, path)
            address = f"{store.url}/{path.name}"
            source = str(Source("h5ad", address, file_version(address)))
            frames.append(pd.DataFrame({"source": source, "row": range(30), "cell_type": "T cell"}))
        index = Path(scratch) / "index.feather"
        pd.concat(frames, ignore_index=True).to_feather(index)
        make_dataset(DEST, index)
    dest = open_store(DEST)
    kept = {f"sources/{key}": data for key, data in _objects(store)}
    kept |= {f"dest/{key}": data for key, data in _objects(dest) if _was_there(key)}
    return {**kept, "expected.json": dest.get(SUCCESS_KEY)}


def _was_there(key: str) -> bool:
    chunks = receipt_chunks(key)
    if chunks is not None:
        return chunks[-1] < _N_DONE
    if key.startswith("chunks/"):
        return int(key.partition("_")[2].partition(".")[0]) < _N_WRITTEN
    return key.startswith(("_ingest/index-", "_ingest/survey-", "_ingest/genes-", PLAN_KEY, AMENDMENTS, FAILURES)) or (
        key.startswith(RUNS) and not key.endswith("/end.json")
    )


def restore(archive: Path) -> bytes:
    """Put the objects of `archive` where they were, the sources first, as then; return ``expected.json``."""
    with tarfile.open(archive) as tar:
        objects = {member.name: tar.extractfile(member) for member in tar}
        found = {key: b"" if file is None else file.read() for key, file in objects.items()}
    expected, store = found.pop("expected.json"), open_store(f"s3://{BUCKET}/")
    for key in sorted(found, key=lambda key: (not key.startswith("sources/"), key)):
        store.put_new(key, found[key])
    return expected


def _objects(store: Store) -> Iterator[tuple[str, bytes]]:
    for stat in store.list(""):
        yield stat.key, store.get(stat.key)


def _write(archive: Path, objects: dict[str, bytes]) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for key, data in sorted(objects.items()):
            member = tarfile.TarInfo(key)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    with fast_s3_server() as server:
        server.create_bucket(BUCKET)
        with mock.patch.dict(os.environ, server.environment):
            _write(Path(sys.argv[1]), begin())
