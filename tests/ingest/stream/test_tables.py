"""obs and var read and replaced, with anndata, pandas and h5py as the judges."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import AbsentError, HostileFileError, SourceChangedError, UnfitError
from ingest.fetch.h5ad_obs import iter_obs
from ingest.fetch.h5ad_open import open_h5ad
from ingest.stream import AnnData, load_obs, load_var, write_obs, write_obsm_to_h5ad, write_var
from ingest.testing.examples import examples
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant
from ingest.testing.h5ad_same import assert_same

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout"),
]
FILES = [pytest.param(path, marks=realdata) for path in sorted(p.name for p in REAL.glob("*.h5ad")) or ["none"]]
# What anndata says of old files is not ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::anndata.OldFormatWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
LEGACY = [None, "0.6", "0.7"]


@pytest.fixture
def path(tmp_path):
    return write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 20))


def without(cells, table):
    """Return all but one table, to compare."""
    return {
        **{name: dict(getattr(cells, name)) for name in ("obsm", "varm", "obsp", "varp", "layers", "uns")},
        "X": cells.X,
        "other": cells.var if table == "obs" else cells.obs,
        "raw": None if cells.raw is None else {"X": cells.raw.X, "var": cells.raw.var},
    }


def stored(path, table):
    """Return the bytes of every dataset but those of one table, by path, and all attributes."""
    found = {}

    def visit(name, node):
        if name.split("/")[0] != table:
            found[name] = repr(dict(node.attrs))
            if isinstance(node, h5py.Dataset):
                found[name] += repr((node.dtype, node.chunks, node.compression, np.asarray(node[()]).tolist()))

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize(("load", "write"), [(load_obs, write_obs), (load_var, write_var)])
def test_rows_in_another_order_are_refused(path, load, write):
    content, table = path.read_bytes(), load(path)
    for order in (table.index[::-1], table.sort_values(table.columns[0], kind="stable").index, np.roll(table.index, 1)):
        if not table.index.equals(order):
            with pytest.raises(UnfitError, match="in another order"):
                write(path, table.loc[order])
    assert path.read_bytes() == content
    write(path, table.loc[table.index[::-1]].loc[load(path).index])  # what the hint says
    write(path, table.set_axis([f"new{number}" for number in range(len(table))]))
    twice = load(path).set_axis(["same"] * len(table))
    write(path, twice)
    write(path, twice)  # names that are all one are in every order
    pd.testing.assert_frame_equal(load(path).reset_index(drop=True), table.reset_index(drop=True))


@pytest.mark.parametrize("name", FILES)
def test_real_tables(name):
    cells = anndata.read_h5ad(REAL / name)
    pd.testing.assert_frame_equal(load_obs(REAL / name), cells.obs)
    pd.testing.assert_frame_equal(load_var(REAL / name), cells.var)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("table", "load", "write"), [("obs", load_obs, write_obs), ("var", load_var, write_var)])
def test_real_tables_replaced(tmp_path, name, table, load, write):
    path = tmp_path / name
    path.write_bytes((REAL / name).read_bytes())
    before = anndata.read_h5ad(path)
    frame = load(path)
    frame["number"] = np.arange(len(frame))
    frame = frame.drop(columns=frame.columns[0])
    frame.index = pd.Index([f"new {name}" for name in frame.index], name=frame.index.name)
    untouched = stored(path, table)
    write(path, frame)
    assert stored(path, table) == untouched or table == "obs"  # obsm may hold a table of the cells' names
    after = anndata.read_h5ad(path)
    pd.testing.assert_frame_equal(getattr(after, table), frame)
    expected = without(before, table)
    for value in expected[f"{table}m"].values():
        if isinstance(value, pd.DataFrame):
            value.index = frame.index
    assert_same(without(after, table), expected)
    assert_same(anndata.read_h5ad(path, backed="r").to_memory(), after)


@pytest.mark.parametrize("legacy", LEGACY)
@pytest.mark.parametrize("where", ["X", "raw", "layer:counts"])
@pytest.mark.parametrize("tables", [("obs",), ("var",), ("obs", "var"), ("var", "obs")])
@pytest.mark.sampled(3)
def test_replaced_in_every_encoding(tmp_path, legacy, where, tables):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 20), where=where, legacy=legacy)
    before = anndata.read_h5ad(path)
    for table in tables:
        frame = (load_obs if table == "obs" else load_var)(path)
        pd.testing.assert_frame_equal(frame, getattr(before, table))
        frame["kind"] = pd.Categorical(["x", None] * (len(frame) // 2), ["y", "x"], ordered=True)
        other = without(anndata.read_h5ad(path), table)
        (write_obs if table == "obs" else write_var)(path, frame)
        after = anndata.read_h5ad(path)
        pd.testing.assert_frame_equal(getattr(after, table), frame)
        assert_same(without(after, table), other)
    assert_same(AnnData(path).to_memory(), after)


def test_names_as_bytes(path):
    """What other programs write: attributes of fixed-width bytes, columns without a word on their encoding."""
    want = load_obs(path)
    with h5py.File(path, "r+") as file:
        for table in ("obs", "var"):
            group = file[table]
            group.attrs["_index"] = np.bytes_(group.attrs["_index"])
            group.attrs["column-order"] = np.array([name.encode() for name in group.attrs["column-order"]])
        for encoded in ("dataframe", None):
            if encoded is None:
                del file["obs"].attrs["encoding-type"], file["obs"].attrs["encoding-version"]
            file.flush()
            pd.testing.assert_frame_equal(load_obs(path), want)
            with open_h5ad(str(path)) as opened:
                batch = next(iter_obs(opened, ["note", "pct_mito"], 30))
            assert batch.column("note").to_pylist() == want["note"].tolist()
    assert list(load_var(path).columns) == ["feature_name"]


def test_missing_categories_survive(tmp_path):
    obs = sample_obs(30)
    assert obs["condition"].isna().any()
    for legacy in LEGACY:
        path = write_h5ad_variant(tmp_path / f"{legacy}.h5ad", sample_counts(30, 20), obs=obs, legacy=legacy)
        pd.testing.assert_series_equal(load_obs(path)["condition"], obs["condition"], check_index=False)


def test_x_is_not_touched(path):
    with h5py.File(path, "r+") as file:
        length = len(file["X/data"])
        del file["X/data"]
        broken = file["X"].create_dataset("data", (length,), np.float32, chunks=(length,), compression="gzip")
        broken.id.write_direct_chunk((0,), b"no deflate stream")
    obs = load_obs(path)
    write_obs(path, obs.assign(new=1))
    assert load_obs(path)["new"].tolist() == [1] * 30
    with h5py.File(path) as file:
        assert file["X/data"].id.read_direct_chunk((0,))[1] == b"no deflate stream"


@pytest.mark.parametrize("missing", ["obs", "var"])
def test_no_table(path, missing):
    with h5py.File(path, "r+") as file:
        del file[missing]
    with pytest.raises(KeyError, match=f"{missing} missing") as caught:
        (load_obs if missing == "obs" else load_var)(path)
    assert isinstance(caught.value, AbsentError)
    with pytest.raises(HostileFileError):
        write_obs(path, sample_obs(30))


@pytest.mark.parametrize("n", [0, 29, 31])
def test_another_number_of_rows(path, n):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"a\.h5ad: {n} rows for obs of 30"):
        write_obs(path, sample_obs(n))
    with pytest.raises(UnfitError, match=rf"a\.h5ad: {n} rows for var of 20"):
        write_var(path, sample_obs(n))
    assert path.read_bytes() == before


UNFIT = {
    "dates": (lambda df: df.assign(d=pd.Timestamp("2024-01-01")), r"column 'd' is of type datetime64"),
    "spans": (lambda df: df.assign(d=pd.Timedelta(1)), r"column 'd' is of type timedelta64"),
    "mixed": (lambda df: df.assign(d=["x", 1] * 15), r"column 'd' holds mixed and integer values"),
    "lists": (lambda df: df.assign(d=[[1]] * 30), r"column 'd' holds mixed values"),
    "intervals": (lambda df: df.assign(d=pd.cut(df["pct_mito"], 3)), r"column 'd': its categories"),
    "double": (lambda df: pd.concat([df, df[["note"]]], axis=1), r"two columns are called 'note'"),
    "number": (lambda df: df.assign(**{"d": 1}).rename(columns={"d": 7}), r"7 cannot be the name"),
    "slash": (lambda df: df.assign(**{"a/b": 1}), r"'a/b' cannot be the name"),
    "dot": (lambda df: df.assign(**{".": 1}), r"'\.' cannot be the name"),
    "empty": (lambda df: df.assign(**{"": 1}), r"'' cannot be the name"),
    "reserved": (lambda df: df.assign(_index=1), r"'_index'"),
    "index-name": (lambda df: df.rename_axis("a/b"), r"'a/b' cannot be the name"),
    "levels": (lambda df: df.set_index("note", append=True), r"named at 2 levels"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_no_h5ad_holds(path, name):
    change, said = UNFIT[name]
    before = path.read_bytes()
    with pytest.raises(UnfitError, match=said) as caught:
        write_obs(path, change(load_obs(path)))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.h5ad"]


def test_what_is_no_table(path):
    for other in ({"a": [1] * 30}, np.zeros((30, 2)), None):
        with pytest.raises(TypeError, match="where a DataFrame belongs"):
            write_obs(path, other)
    with pytest.raises(TypeError, match="in memory"):
        write_obs(anndata.read_h5ad(path), sample_obs(30))


FITTED = {
    "text with gaps": (["x", None, np.nan], pd.Categorical(["x", None, None])),
    "pandas text": (pd.array(["x", "y", "z"], dtype="string"), np.array(["x", "y", "z"], dtype=object)),
    "pandas text with gaps": (pd.array(["x", None, "y"], dtype="string"), pd.Categorical(["x", None, "y"])),
    "objects that are numbers": (np.array([1, 2, 3], dtype=object), np.array([1, 2, 3])),
    "objects that are fractions": (np.array([1, 2.5, None], dtype=object), np.array([1, 2.5, np.nan])),
    "objects that are flags": (np.array([True, False, True], dtype=object), np.array([True, False, True])),
    "flags with gaps": (np.array([True, None, False], dtype=object), pd.array([True, None, False], dtype="boolean")),
    "nothing at all": (np.array([None] * 3, dtype=object), np.array([np.nan] * 3)),
    "numbers as categories": (pd.Categorical([3, 1, 3]), pd.Categorical([3, 1, 3])),
    "no categories": (pd.Categorical([None] * 3, []), pd.Categorical([None] * 3, [])),
}


@pytest.mark.parametrize("name", FITTED)
def test_what_is_made_to_fit(tmp_path, name):
    given_values, want = FITTED[name]
    path = tmp_path / "a.h5ad"
    anndata.AnnData(np.ones((3, 2), np.float32)).write_h5ad(path)
    frame = pd.DataFrame({"c": given_values}, index=["a", "b", "c"])
    kept = frame.copy(deep=True)
    write_obs(path, frame)
    pd.testing.assert_frame_equal(frame, kept)  # the caller's own stays
    read = anndata.read_h5ad(path).obs["c"]
    if name == "no categories":
        assert read.isna().all()
        return
    pd.testing.assert_series_equal(read, pd.Series(want, index=["a", "b", "c"], name="c"), check_index_type=False)


@pytest.mark.parametrize("index", [range(30), np.linspace(0, 1, 30), pd.date_range("2024", periods=30)])
def test_names_of_rows_become_text(path, index):
    write_obs(path, sample_obs(30).set_axis(pd.Index(index), axis=0))
    assert list(anndata.read_h5ad(path).obs_names) == [str(name) for name in pd.Index(index).astype(str)]


def test_an_index_named_like_a_column(path):
    obs = sample_obs(30).rename_axis("note")
    write_obs(path, obs)
    read = anndata.read_h5ad(path).obs
    assert (list(read.index), list(read["note"]), read.index.name) == (list(obs.index), list(obs["note"]), None)
    write_obs(path, obs.set_index("note", drop=False))
    assert anndata.read_h5ad(path).obs.index.name == "note"


def test_tables_beside_take_the_new_names(path):
    obs = load_obs(path)
    write_obsm_to_h5ad(path, "scores", obs[["pct_mito"]])
    write_obs(path, obs.set_axis([f"c{number}" for number in range(30)], axis=0))
    after = anndata.read_h5ad(path)
    assert list(after.obsm["scores"].index) == [f"c{number}" for number in range(30)]
    np.testing.assert_array_equal(after.obsm["scores"]["pct_mito"], obs["pct_mito"])


def test_somebody_elses_change_is_not_lost(path, monkeypatch):
    import ingest.stream.tables as tables

    put = tables.put

    def meddle(*arguments):
        put(*arguments)
        path.write_bytes(path.read_bytes() + b"x")

    monkeypatch.setattr(tables, "put", meddle)
    with pytest.raises(SourceChangedError, match="changed by something else"):
        write_obs(path, sample_obs(30))
    assert path.read_bytes().endswith(b"x")
    assert [p.name for p in path.parent.iterdir()] == ["a.h5ad"]


def test_a_change_between_looking_and_copying(path, monkeypatch):
    import ingest.stream.tables as tables

    edited = tables.edited_h5ad

    def meddle(*arguments):
        path.write_bytes(path.read_bytes() + b"x")
        return edited(*arguments)

    monkeypatch.setattr(tables, "edited_h5ad", meddle)
    with pytest.raises(SourceChangedError, match="changed by something else"):
        write_obs(path, sample_obs(30))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=6).filter(
    lambda name: name.strip(".") and name != "_index"
)
COLUMNS = {
    "text": TEXTS,
    "gaps": st.none() | TEXTS,
    "whole": st.integers(-(2**63), 2**63 - 1),
    "fractions": st.floats(allow_subnormal=False),
    "flags": st.booleans(),
}


@settings(max_examples=examples(16), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_table_comes_back(path, data):
    kinds = data.draw(st.dictionaries(NAMES, st.sampled_from(sorted(COLUMNS)), max_size=4))
    columns = {}
    for name, kind in kinds.items():
        values = data.draw(st.lists(COLUMNS[kind], min_size=20, max_size=20))
        categorical = kind in ("text", "gaps") and data.draw(st.booleans())
        columns[name] = pd.Categorical(values) if categorical else pd.Series(values, dtype=_dtype(kind)).array
    index = [f"{text}-{number}" for number, text in enumerate(data.draw(st.lists(TEXTS, min_size=20, max_size=20)))]
    frame = pd.DataFrame(columns, index=index)
    write_var(path, frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = anndata.read_h5ad(path).var
    for read in (load_var(path), theirs, AnnData(path).var.head(20)):
        assert list(read.index) == index
        assert list(read.columns) == list(columns)
        for name in columns:
            for found, want in zip(read[name], frame[name], strict=True):
                assert found == want or (pd.isna(found) and pd.isna(want))


def _dtype(kind):
    return {"whole": np.int64, "fractions": np.float64, "flags": bool}.get(kind, object)
