"""Opening: the hostile corpus against every step of the way, in this process, which must live."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from ingest.errors import ConfigError, ExhaustedError, HostileFileError, SourceChangedError, SourceError, TransientError
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.h5ad import H5adFetcher
from ingest.fetch.h5ad_obs import iter_obs, obs_columns, obs_names
from ingest.fetch.h5ad_open import OpenBudget, file_version, open_h5ad
from ingest.source import Source
from ingest.survey.h5ad import survey_h5ad
from ingest.testing.h5ad_files import hostile_files, sample_counts, write_h5ad_variant
from ingest.testing.h5ad_hostile import ACCEPTED
from ingest.testing.hostile.h5ad_bytes import BYTES

# The corpus names rules in general; the kinds are finer, or come from the first of two rules that a file breaks.
KINDS = {
    "not-finite": {"nan", "infinite"},
    "duplicate-gene": {"duplicate-genes"},
    "index-dtype": {"index-type"},
    "value-dtype": {"no-counts", "value-type"},
    "decoded-size": {"decoded-size", "shape"},
}
BOMB_BYTES = 1 << 26


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return hostile_files(tmp_path_factory.mktemp("hostile"), bomb_bytes=BOMB_BYTES)


def read_everything(path, scratch):
    """Go the whole way of a file: obs as an index reads it, survey, all rows."""
    source = Source.parse(str(path))
    with open_h5ad(source) as file:
        batches = list(iter_obs(file, list(obs_columns(file)), 10))
        obs_names(file, np.arange(sum(len(batch) for batch in batches)))
    survey = survey_h5ad(source, allow_noninteger=True)
    fetcher = H5adFetcher(survey, survey.genes, FetchOptions(), FetchLimits(1 << 24, 1, scratch))
    try:
        return fetcher.read(np.arange(survey.n_obs))
    finally:
        fetcher.close()


NAMES = [  # as the corpus has them, so that each is a test of its own
    "external-link",
    "external-link-in-uns",
    "external-storage",
    "virtual-dataset",
    "huge-dense",
    "huge-indptr",
    "huge-shape",
    "negative-shape",
    "fewer-obs",
    "indptr-start",
    "indptr-order",
    "indptr-negative",
    "indptr-end",
    "indptr-short",
    "indices-short",
    "index-negative",
    "index-beyond",
    "index-wraps",
    "index-float",
    "duplicate-entry",
    "nan",
    "inf",
    "negative",
    "fractional",
    "values-text",
    "duplicate-gene",
    "not-utf8-obs",
    "not-utf8-label",
    "not-utf8-gene",
    "label-code-beyond",
    "link-cycle",
    "soft-link-cycle",
    "dense-nan",
    "dense-negative",
    "dense-fractional",
    "damaged-chunk",
    "missing-filter",
    "no-matrix",
    "no-obs",
    "unknown-encoding",
    "unsorted",
    "bomb-entries",
    "bomb-column",
    "bomb-chunk",
    "truncated",
    "truncated-header",
    "empty",
    "text",
    "html",
    "zeroed-header",
]


def test_the_whole_corpus_is_tested(corpus):
    assert set(NAMES) == set(corpus)


@pytest.mark.parametrize("name", NAMES)
def test_every_hostile_file_is_refused_by_its_rule(corpus, tmp_path, name):
    path, rule = corpus[name]
    if rule == ACCEPTED:
        assert read_everything(path, tmp_path).was_unsorted
        return
    with pytest.raises(SourceError) as caught:
        read_everything(path, tmp_path)
    error = caught.value
    assert error.kind in KINDS.get(rule, {rule})
    assert path.name in str(error)
    assert "\n" not in str(error)
    assert error.source is not None
    assert Source.parse(error.source).path == path
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301  # our own error, as Ray would carry it


def test_nothing_is_followed_while_looking(corpus, tmp_path):
    """What the links point at is taken away: the answer stays the same."""
    for name in ("external-link", "external-storage", "virtual-dataset"):
        lonely = tmp_path / f"{name}.h5ad"
        lonely.write_bytes(corpus[name].path.read_bytes())
        with pytest.raises(HostileFileError) as caught:
            open_h5ad(str(lonely))
        assert caught.value.kind == name


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))])
def test_random_damage_never_kills_the_process_or_raises_anything_else(tmp_path, seed):
    """Bytes flipped anywhere; in another process, since HDF5 is what is being tried."""
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(40, 30), compression="gzip" if seed % 2 else None)
    code = f"""
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_h5ad_open import read_everything
from ingest.errors import IngestError
good, rng, path = Path({str(path)!r}).read_bytes(), np.random.default_rng({seed}), Path({str(tmp_path / "bad.h5ad")!r})
for _ in range(40):
    data = bytearray(good)
    for at in rng.integers(0, len(data), 6):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    try:
        read_everything(path, Path({str(tmp_path)!r}))
    except IngestError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def good(tmp_path):
    return write_h5ad_variant(tmp_path / "good.h5ad", sample_counts(10, 5))


def change(path, act):
    with h5py.File(path, "r+") as file:
        act(file)
    return str(path)


def test_soft_links_unknown_depths_and_crowds_are_refused(good):
    budget = OpenBudget(depth=3, objects=60)
    change(good, lambda file: file.create_group("uns/a/b/c/d"))
    with pytest.raises(HostileFileError, match="nested"):
        open_h5ad(str(good), budget=budget)
    change(good, lambda file: [file.create_group(f"uns/{number}") for number in range(60)])
    with pytest.raises(HostileFileError, match="links"):
        open_h5ad(str(good), budget=OpenBudget(objects=60))
    change(good, lambda file: file.__setitem__("uns/soft", h5py.SoftLink("/X")))
    with pytest.raises(HostileFileError) as caught:
        open_h5ad(str(good))
    assert caught.value.kind == "soft-link"


def test_a_name_that_is_not_utf8_is_refused(good):
    change(good, lambda file: file["uns"].create_group(b"caf\xe9"))
    with pytest.raises(HostileFileError) as caught:
        open_h5ad(str(good))
    assert caught.value.kind == "not-utf8"


def test_two_hard_links_to_one_object_are_no_cycle(good):
    change(good, lambda file: file.__setitem__("uns/again", file["obs"]))
    open_h5ad(str(good)).close()


def test_an_attribute_that_is_not_utf8_is_refused(good):
    def spoil(file):
        del file["X"].attrs["encoding-type"]
        file["X"].attrs.create("encoding-type", b"csr_\xff", dtype=h5py.string_dtype())

    with pytest.raises(HostileFileError) as caught:
        survey_h5ad(Source.parse(change(good, spoil)))
    assert caught.value.kind == "not-utf8"


def test_a_hole_in_the_disk_file_is_no_reason_to_allocate(good):
    """Never-written chunks of a large declaration are within the floor, and read as zeros by slabs."""
    change(good, lambda file: file.create_dataset("uns/big", (1 << 22,), "f4", chunks=(1 << 16,)))
    open_h5ad(str(good)).close()
    change(good, lambda file: file.create_dataset("uns/bigger", (1 << 40,), "f4", chunks=(1 << 16,)))
    with pytest.raises(HostileFileError) as caught:
        open_h5ad(str(good))
    assert caught.value.kind == "declared-size"


def test_the_version_is_size_and_time_and_moves_with_the_file(good):
    version = file_version(str(good))
    assert version == f"{good.stat().st_size}-{good.stat().st_mtime_ns}"
    with open_h5ad(str(good)) as file:
        assert file.source.version == version
        file.check_unchanged()
        source = file.source
        good.with_name("other.h5ad").write_bytes(good.read_bytes())
        good.with_name("other.h5ad").replace(good)
        with pytest.raises(SourceChangedError, match="was version"):
            file.check_unchanged()
    with pytest.raises(SourceChangedError):
        open_h5ad(source)
    good.unlink()
    with pytest.raises(SourceChangedError) as caught:
        open_h5ad(source)
    assert caught.value.kind == "source-gone"


def test_what_is_not_there_or_no_file_is_said(tmp_path):
    for path, kind in ((tmp_path / "none.h5ad", "no-such-file"), (tmp_path, "not-hdf5")):
        with pytest.raises(SourceError) as caught:
            open_h5ad(str(path))
        assert caught.value.kind == kind
    with pytest.raises(ConfigError):
        file_version("http://user:secret@host/a.h5ad")


def test_plain_anndata_may_have_the_file_open_too(good):
    with open_h5ad(str(good)) as file:
        assert anndata.read_h5ad(good).n_obs == 10
        assert len(file.dataset("obs/_index")) == 10


def test_a_process_may_end_with_a_file_open(good):
    code = f"from ingest.fetch.h5ad_open import open_h5ad; kept = open_h5ad({str(good)!r})"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0


@pytest.mark.parametrize(("number", "size"), [(0, 0), (0, 8), (1, 2**64 - 16), (1, 2**64 - 1), (3, 1 << 40)])
def test_a_heap_that_hdf5_would_walk_for_ever_is_refused_before(good, number, size):
    data = bytearray(good.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 18] = number.to_bytes(2, "little")
    data[heap + 24 : heap + 32] = size.to_bytes(8, "little")
    good.write_bytes(data)
    with pytest.raises(HostileFileError) as caught:
        read_everything(good, good.parent)
    assert caught.value.kind == "damaged-heap"


def test_free_blocks_that_hdf5_would_take_memory_for_without_end_are_refused_before(good):
    good.write_bytes(BYTES["heap-free-block-itself"](good.read_bytes()))
    with pytest.raises(HostileFileError, match="heap of names at byte") as caught:
        open_h5ad(str(good))
    assert caught.value.kind == "damaged-heap"


@pytest.mark.parametrize("user_block", [0, 512, 2048])
def test_heaps_with_many_free_blocks_are_read_wherever_the_file_begins(good, tmp_path, user_block):
    path = tmp_path / "moved.h5ad"
    with h5py.File(good) as old, h5py.File(path, "w", userblock_size=user_block) as new:
        for name in old:
            old.copy(name, new)
        for number in range(60):
            new["uns"].create_group(f"a name of a group, number {number}")
        for number in range(0, 60, 3):
            del new[f"uns/a name of a group, number {number}"]
    with open_h5ad(str(path)) as file:
        assert len(file.get("uns")) == 40
        assert file.attribute(file.get("obs"), "_index") == "_index"


def test_sizes_of_four_bytes_are_refused_before_a_heap_of_them_is_walked(tmp_path):
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_sizes(4, 4)
    path = tmp_path / "narrow.h5ad"
    h5py.h5f.create(bytes(path), fcpl=creation).close()
    with h5py.File(path, "r+") as file:
        file.create_group("obs").attrs["_index"] = "_index"
        file.create_group("var")
    with pytest.raises(HostileFileError, match="of 4 and 4 bytes"):
        open_h5ad(str(path))


@pytest.mark.parametrize(
    ("failure", "expected"), [(TransientError("reset", kind="reset"), TransientError), (None, ExhaustedError)]
)
def test_what_the_stream_met_is_told_before_what_hdf5_made_of_it(good, failure, expected):
    def read(file):
        with file.reading("X"):
            file._stream.failure = failure
            raise MemoryError

    with open_h5ad(str(good)) as file, pytest.raises(expected):
        read(file)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5ad")
    with pytest.raises(SourceError) as caught:
        open_h5ad(str(tmp_path / "pipe.h5ad"))
    assert caught.value.kind == "not-hdf5"
