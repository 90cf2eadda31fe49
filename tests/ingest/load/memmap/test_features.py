"""Features by row, held against bionemo-scdl's own: the same values of the same types, blocks and files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bionemo.scdl.index import row_feature_index as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.load.memmap import features as ours
from ingest.testing.examples import examples

TEXTS = ["T cell", "B", "", "naïve 🧬", "a\0b", "x" * 40]
DAYS = ["2020-01-01T10:00:00", "NaT", "1969-07-20"]


def objects(values):
    found = np.empty(len(values), object)
    found[:] = values
    return found


def numbers(dtype, values):
    return values, lambda drawn: np.array(drawn, dtype)


# What values there are, and the array that the column of a DataFrame is.
KINDS = {
    "text": (TEXTS, objects),
    "text or None": ([*TEXTS, None], objects),
    "text or nan": ([*TEXTS, np.nan], objects),
    "text or NA": ([*TEXTS, None], lambda drawn: np.array(pd.array(drawn, dtype="string"))),
    "text or several": (["B", "C", None, np.nan, pd.NA], objects),
    "category": ([*TEXTS, None], lambda drawn: np.array(pd.Categorical(drawn))),
    "category of numbers": ([3, 1, 2], lambda drawn: np.array(pd.Categorical(drawn))),
    "fixed text": (["T cell", "B", "", "naïve 🧬"], lambda drawn: np.array(drawn, str)),
    "no UTF-8": (["a", "\ud800"], objects),
    "bytes": ([b"a", b"bb", b""], lambda drawn: np.array(drawn, "S")),
    "boolean": ([True, False, None], lambda drawn: np.array(pd.array(drawn, dtype="boolean"))),
    "nullable": ([1, 2, None], lambda drawn: np.array(pd.array(drawn, dtype="Int64"))),
    "nothing": ([None, np.nan, pd.NA], objects),
    "number or not": ([1, 2.5, None], objects),
    "text or number": ([1, "1"], objects),
    "text or bytes": (["a", b"b"], objects),
    "text or truth": (["a", True], objects),
    "nested": ([[1, 2], [], None], objects),
    "intervals": ([pd.Interval(0, 1), pd.Interval(1, 2)], objects),
    "complex": numbers(complex, [1j, 2]),
    "dates": numbers("M8[ns]", DAYS),
    "days": numbers("M8[D]", DAYS),
    "seconds": numbers("M8[s]", DAYS),
    "hours": numbers("M8[h]", DAYS),
    "whiles": numbers("m8[ns]", [1, 2, "NaT"]),
    "stamps": (DAYS, lambda drawn: np.array(pd.to_datetime(pd.Series(drawn, dtype="M8[ns]")).dt.tz_localize("UTC"))),
    "bool": numbers(bool, [True, False]),
    **{dtype: numbers(dtype, [0, 1, 100]) for dtype in ("int8", "uint8", "int32", "int64", "uint64")},
    **{dtype: numbers(dtype, [0.5, np.nan, -1e4, np.inf]) for dtype in ("float16", "float32", "float64")},
}


@st.composite
def tables(draw, names=("a", "b.c", "b"), most=6):
    """Draw features of some rows."""
    chosen = draw(st.lists(st.sampled_from(names), unique=True))
    n = draw(st.integers(0, most))
    found = {}
    for name in chosen:
        pool, make = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        found[name] = make(draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n)))
    return found


LABELS = st.sampled_from([None, "one.h5ad", "two.h5ad"])


def alike(one, other):
    """Return whether two values are the same, and of the same type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and len(one) == len(other) and all(map(alike, one, other))
    return one is other or bool(one == other) or (one != one and other != other)


def tell(do):
    """Return what came of it: a value, or the type and text of an error."""
    try:
        return do()
    except (TypeError, ValueError, IndexError) as error:
        return type(error), str(error)


def assert_same(mine, peer, names=("a", "b")):
    assert len(mine) == len(peer)
    assert mine.number_of_rows() == peer.number_of_rows()
    assert mine.column_dims() == peer.column_dims() == mine._num_entries_per_row
    assert mine.number_of_values() == peer.number_of_values()
    assert mine._cumulative_sum_index.tolist() == peer._cumulative_sum_index.tolist()
    assert mine._labels == list(peer._labels)
    assert mine.version() == peer.version()
    for own, other in zip(mine._feature_arr, peer._feature_arr, strict=True):
        assert list(own) == list(other)
        assert all(alike(own[name], np.asarray(other[name])) for name in own)
    for row in range(-1, peer.number_of_rows() + 1):
        for select in (None, [], list(names), list(names)[::-1]):
            found, wanted = tell(lambda: mine.lookup(row, select)), tell(lambda: peer.lookup(row, select))  # noqa: B023
            assert type(found[0]) is type(wanted[0])
            if isinstance(wanted[0], list):
                assert all(map(alike, found[0], wanted[0]))
                assert len(found[0]) == len(wanted[0])
            else:
                assert found == wanted
        assert tell(lambda: mine.number_vars_at_row(row)) == tell(lambda: peer.number_vars_at_row(row))  # noqa: B023


def assert_same_slices(mine, peer):
    n = peer.number_of_rows()
    for cut in (
        slice(None),
        slice(1, n - 1),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(n, 0, -2),
        slice(2, 1),
    ):
        (blocks, labels), (wanted, theirs_labels) = mine[cut], peer[cut]
        assert labels == list(theirs_labels)
        assert [list(block) for block in blocks] == [list(block) for block in wanted]
        for own, other in zip(blocks, wanted, strict=True):
            assert all(alike(own[name], other[name]) for name in own)


def with_list(peer):
    """Return a loaded index of theirs with labels that can be appended to."""
    peer._labels = peer._labels.tolist()
    return peer


def save_both(mine, peer, folder):
    """Save both if theirs can be, and return whether it can."""
    if not can_save(peer, folder / "theirs"):
        with pytest.raises(ConfigError) as refused:
            mine.save(folder / "ours")
        assert refused.value.kind == "feature-type"
        return False
    mine.save(str(folder / "ours"))
    return True


def can_save(peer, folder):
    try:
        peer.save(str(folder))
    except (pa.ArrowException, UnicodeError, OverflowError):
        return False
    return True


def assert_same_files(mine: Path, peer: Path):
    assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in peer.iterdir())
    for path in peer.glob("*.parquet"):
        assert pq.read_schema(mine / path.name).equals(pq.read_schema(path), check_metadata=True)
        assert pq.read_table(mine / path.name).equals(pq.read_table(path))
    for name in ("cumulative_sum_index.npy", "version.npy"):
        assert (mine / name).read_bytes() == (peer / name).read_bytes()


@settings(max_examples=examples(24), deadline=None)
@given(files=st.lists(st.tuples(tables(), LABELS), max_size=6), apart=st.integers(0, 6), again=st.booleans())
def test_obs_as_theirs(files, apart, again):
    pairs = [(ours.ObservedFeatureIndex(), theirs.ObservedFeatureIndex()) for _ in range(2)]
    for number, (table, label) in enumerate(files):
        mine, peer = pairs[number >= apart]
        assert tell(lambda: mine.append_features(table, label)) == tell(lambda: peer.append_features(table, label))  # noqa: B023
    (mine, peer), (more, peers_more) = pairs
    assert_same(mine, peer)
    assert_same_slices(mine, peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if again and save_both(mine, peer, folder):
            mine, peer = mine.load(folder / "ours"), with_list(peer.load(str(folder / "theirs")))
        raised = tell(lambda: mine.concat(more))
        wanted = tell(lambda: peer.concat(peers_more))
        assert raised == wanted or raised is mine
        assert_same(mine, peer)
        assert_same_slices(mine, peer)
        shutil.rmtree(folder / "theirs", ignore_errors=True)  # else another number of files may stay beside new ones
        if save_both(mine, peer, folder):
            assert_same(mine, peer)
            if not again:  # a file that is linked again keeps what theirs loses by reading it, such as a time zone
                assert_same_files(folder / "ours", folder / "theirs")
            wanted = peer.load(str(folder / "theirs"))
            assert_same(mine.load(folder / "ours"), wanted)
            assert_same(mine.load(folder / "theirs"), wanted)
            assert_same_slices(mine.load(folder / "ours"), wanted)


@settings(max_examples=examples(16), deadline=None)
@given(
    files=st.lists(st.tuples(st.integers(0, 3), tables(), LABELS), max_size=6),
    twice=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_var_as_theirs(files, twice):
    mine, peer = ours.VariableFeatureIndex(), theirs.VariableFeatureIndex()
    for (n, table, label), again in zip(files, twice, strict=False):
        for _ in range(1 + again):
            mine.append_features(n, table, label)
            try:
                peer.append_features(n, table, label)
            except (TypeError, ValueError):  # theirs compares neither pandas' NA nor lists; ours says they differ
                return
    assert_same(mine, peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not save_both(mine, peer, folder):
            return
        assert_same(mine, peer)
        assert_same_files(folder / "ours", folder / "theirs")
        loaded = with_list(peer.load(str(folder / "theirs")))
        assert_same(mine.load(folder / "ours"), loaded)
        assert_same(mine.load(folder / "theirs"), loaded)
        try:
            loaded.concat(peer)
        except (TypeError, ValueError):
            return
        assert_same(mine.load(folder / "ours").concat(mine), loaded)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("index", ["ObservedFeatureIndex", "VariableFeatureIndex"])
def test_each_kind(kind, index, tmp_path):
    pool, make = KINDS[kind]
    drawn = np.random.default_rng(0).integers(0, len(pool), 200)
    values = make([pool[at] for at in drawn])
    mine, peer = getattr(ours, index)(), getattr(theirs, index)()
    for own in (mine, peer):
        own.append_features(*([3] if index == "VariableFeatureIndex" else []), {"a": values}, "one")
    assert_same(mine, peer, ["a"])
    if save_both(mine, peer, tmp_path):
        assert_same_files(tmp_path / "ours", tmp_path / "theirs")
        assert_same(mine.load(tmp_path / "ours"), peer.load(str(tmp_path / "theirs")), ["a"])
        assert_same(mine.load(tmp_path / "theirs"), peer.load(str(tmp_path / "ours")), ["a"])
