"""Hostile h5ad files through everything that opens one: a typed error or an answer, and nothing else is touched."""

from __future__ import annotations

import pytest

from ingest.testing.entry_points.base import attempt
from ingest.testing.entry_points.files import CHUNK
from ingest.testing.entry_points.h5ad import H5AD
from ingest.testing.hostile.cases import h5ad_cases, write_canaries
from ingest.testing.hostile.good import write_good_h5ad
from ingest.testing.shelf import Shelf
from ingest.testing.watch import Canaries, watched_memory

CASES = h5ad_cases()
MEMORY_BYTES = 512 << 20
"""Bombs are of 64 to 128 MiB, which may be decoded; what is declared beyond may not."""
ALWAYS = ("fetch",)
POINTS = {entry.name: entry for entry in H5AD}
TAKEN = {  # by `fetch`, which reads obs, genes and all counts: harmless, or of parts that no run reads
    "data-half",
    "data-big-endian",
    "data-long-double",
    "data-bool",
    "data-beyond-float32",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_good_h5ad(tmp_path_factory.mktemp("hostile") / "good.h5ad")


@pytest.fixture(scope="module")
def canaries(good):
    with Canaries(write_canaries(good.parent, good)) as watched:
        yield watched


def read(case, path, entry, canaries):
    with watched_memory() as peak:
        outcome = attempt(entry, path)
    assert outcome.fault is None, f"{case.name} by {entry.name}"
    assert not canaries.disturbed(), f"{case.name} by {entry.name}: another file was opened"
    assert peak.taken_bytes < MEMORY_BYTES, f"{case.name} by {entry.name}"
    return outcome


def test_there_are_many():
    assert len(CASES) == len({case.name for case in CASES})
    assert len(CASES) > 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.sampled(2)
def test_every_case_by_some(case, good, canaries, tmp_path):
    """By `fetch`, which goes the whole way, and by two others in turn: all of them meet every kind of case."""
    path = tmp_path / f"{case.name}.h5ad"
    case.make(good, path)
    at = CASES.index(case)
    others = [entry for entry in H5AD if entry.name not in ALWAYS]
    turns = {others[at % len(others)].name, others[(3 * at + 11) % len(others)].name}
    for name in (*ALWAYS, *sorted(turns)):
        read(case, path, POINTS[name], canaries)


@pytest.mark.long
@pytest.mark.parametrize("entry", H5AD, ids=lambda entry: entry.name)
def test_every_case_by_all(entry, good, canaries, tmp_path):
    for case in CASES:
        path = tmp_path / f"{case.name}.h5ad"
        case.make(good, path)
        read(case, path, entry, canaries)
        path.unlink()


LINKS = [case for case in CASES if case.name.startswith(("link-out", "outside", "virtual"))]


def test_what_leads_out_is_refused_by_all(good, canaries, tmp_path):
    """Nobody reads a part of a file that points elsewhere: it is refused as a whole, when it is opened."""
    assert len(LINKS) > 15
    for at, case in enumerate(LINKS):
        path = tmp_path / f"{case.name}.h5ad"
        case.make(good, path)
        for entry in (POINTS["survey"], H5AD[at % len(H5AD)]):
            outcome = read(case, path, entry, canaries)
            if entry.name != "run":  # which is finished, and says which chunks it could not make
                assert outcome.kind in {"external-link", "external-storage", "virtual-dataset"}, (case.name, entry.name)


def test_canaries_sing(good, canaries):
    good.with_name("canary.h5").read_bytes()
    assert canaries.disturbed()
    assert not canaries.disturbed()


@pytest.fixture(scope="module", params=["float32-deflate", pytest.param("float32-zstd", marks=pytest.mark.long)])
def chunk(request, tmp_path_factory):
    shelf = Shelf(tmp_path_factory.mktemp("chunks"))
    return min((shelf.made(request.param) / "chunks").iterdir())


@pytest.mark.parametrize("third", [0, *(pytest.param(third, marks=pytest.mark.long) for third in (1, 2))])
def test_chunks_in_dest_may_be_anybodys(chunk, tmp_path, third):
    """Read back before they are adopted, and by `verify --deep` where their sha256 is right."""
    write_canaries(tmp_path, chunk)
    with Canaries((tmp_path / "canary.h5", tmp_path / "canary.bin")) as watched:
        for at, case in enumerate(CASES[third::3]):
            path = tmp_path / f"{case.name}.h5ad"
            try:
                case.make(chunk, path)
            except (KeyError, ValueError, TypeError, OSError, AttributeError, RuntimeError):
                continue  # it changes what a chunk does not have
            watched.disturbed()
            read(case, path, CHUNK[at % 2], watched)
            path.unlink()
