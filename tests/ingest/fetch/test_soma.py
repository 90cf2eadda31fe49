"""Counts of a Census, against plain reads of TileDB-SOMA and cellxgene_census, in every order and selection."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import cellxgene_census
import numpy as np
import pytest
import scipy.sparse as sp
import tiledbsoma
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError, NotCountsError, SourceChangedError, SourceError
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.open import open_fetcher
from ingest.fetch.ranges import coordinate_of, ranges_of, split_rows
from ingest.fetch.soma import SomaFetcher
from ingest.genes import Genes
from ingest.source import Source, address_of
from ingest.survey.soma import survey_soma
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.examples import examples
from ingest.validate import check_counts

# cellxgene_census hands anndata an integer index, which anndata turns into text and warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Transforming to str index")

LIMITS = FetchLimits(256 << 20, 1, Path("unused"))
TIGHT = FetchLimits(1 << 20, 1, Path("unused"))
N_CELLS, N_GENES = 5_000, 3_000


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=N_CELLS, n_genes=N_GENES, mean_nnz_per_cell=90, n_datasets=3)
    return build_census(tmp_path_factory.mktemp("census") / "mini copy", spec)


@pytest.fixture(scope="module")
def survey(census):
    return survey_soma(Source("soma", address_of(census.uri), "", "homo_sapiens"), LIMITS, datasets=None)


@pytest.fixture(scope="module")
def plain(census):
    """X raw read plainly: one sorted read, no code of ours."""
    with tiledbsoma.open(f"{census.uri}/census_data/homo_sapiens/ms/RNA/X/raw") as array:
        table = array.read(result_order="row-major").tables().concat()
    entries = (table["soma_data"].to_numpy(), (table["soma_dim_0"].to_numpy(), table["soma_dim_1"].to_numpy()))
    return sp.csr_matrix(entries, shape=(N_CELLS, N_GENES))


@pytest.fixture(scope="module")
def fetcher(survey):
    fetcher = SomaFetcher(survey, survey.genes, FetchOptions(), LIMITS)
    yield fetcher
    fetcher.close()


def same(counts, wanted: sp.csr_matrix) -> None:
    check_counts(counts, source="test")
    assert counts.n_genes == wanted.shape[1]
    np.testing.assert_array_equal(counts.indptr, wanted.indptr)
    np.testing.assert_array_equal(counts.indices, wanted.indices)
    np.testing.assert_array_equal(counts.data, wanted.data)


@st.composite
def selections(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["scattered", "run", "runs", "bands"]))
    if kind == "run":
        start = draw(st.integers(0, N_CELLS - 1))
        rows = np.arange(start, min(N_CELLS, start + draw(st.integers(1, 3_000))))
    elif kind == "runs":
        starts = rng.integers(0, N_CELLS - 50, 20)
        rows = np.unique(np.concatenate([np.arange(start, start + rng.integers(1, 50)) for start in starts]))
    elif kind == "bands":
        rows = np.arange(0, N_CELLS, 2048)
    else:
        rows = np.flatnonzero(rng.random(N_CELLS) < draw(st.sampled_from([0.002, 0.1, 0.6])))
    return rng.permutation(rows) if draw(st.booleans()) else rows


@settings(max_examples=examples(10), deadline=None)
@given(rows=selections(), tight=st.booleans())
def test_rows_in_any_order(survey, plain, fetcher, rows, tight):
    reader = SomaFetcher(survey, survey.genes, FetchOptions(), TIGHT) if tight else fetcher
    fetched = reader.read(rows)
    same(fetched.counts, plain[rows])
    assert fetched.names is None
    assert fetched.counts.data.dtype == np.float32
    if tight:
        reader.close()


@settings(max_examples=15, deadline=None)
@given(rows=selections(), seed=st.integers(0, 2**32), n_genes=st.integers(1, N_GENES))
def test_genes_filtered_and_reordered(survey, plain, rows, seed, n_genes):
    columns = np.random.default_rng(seed).permutation(N_GENES)[:n_genes]
    genes = survey.genes.take(columns.tolist())
    wider = Genes((*genes.ids, "elsewhere"), (*genes.names, "elsewhere"), (*genes.lengths, 0))
    reader = SomaFetcher(survey, wider, FetchOptions(), LIMITS)
    wanted = sp.hstack([plain[rows][:, columns], sp.csr_matrix((len(rows), 1))], format="csr", dtype=np.float32)
    wanted.sort_indices()
    same(reader.read(rows).counts, wanted)
    reader.close()


def test_agrees_with_get_anndata(census, fetcher):
    joinids = [17, 2047, 2048, 4_999]
    with cellxgene_census.open_soma(uri=census.uri) as opened:
        adata = cellxgene_census.get_anndata(opened, "Homo sapiens", obs_coords=joinids)
    counts = fetcher.read(np.array(joinids)).counts
    found = sp.csr_matrix((counts.data, counts.indices, counts.indptr), shape=adata.shape)
    assert (found != adata.X).nnz == 0


def test_no_rows_and_genes_that_are_elsewhere(survey, fetcher):
    assert fetcher.read(np.empty(0, np.int64)).counts.n_cells == 0
    reader = open_fetcher(survey, Genes(("x",), ("x",), (0,)), FetchOptions(), LIMITS)
    counts = reader.read(np.arange(100)).counts
    assert (counts.n_cells, counts.n_genes, counts.nnz) == (100, 1, 0)
    reader.close()


@pytest.mark.parametrize("row", [-1, N_CELLS])
def test_rows_out_of_range(fetcher, row):
    with pytest.raises(SourceError, match=f"soma_joinid {row} of {N_CELLS}") as caught:
        fetcher.read(np.array([3, row]))
    assert caught.value.kind == "row-range"


@pytest.mark.parametrize("limits", [LIMITS, TIGHT])
def test_a_row_asked_for_twice(survey, limits):
    reader = SomaFetcher(survey, survey.genes, FetchOptions(), limits)
    with pytest.raises(SourceError, match="row 4 is asked for twice"):
        reader.read(np.array([4, 5, 4, *range(100, N_CELLS)]))
    reader.close()


def test_other_types(survey, plain):
    reader = SomaFetcher(survey, survey.genes, FetchOptions("uint16"), LIMITS)
    counts = reader.read(np.arange(300)).counts
    assert counts.data.dtype == np.uint16
    np.testing.assert_array_equal(counts.data, plain[:300].data)
    reader.close()


def test_a_copy_that_moved_or_vanished(survey, tmp_path):
    moved = Source("soma", survey.source.address, "2025-01-01", "homo_sapiens")
    with pytest.raises(SourceChangedError, match="is build 2026-01-05 now, not 2025-01-01"):
        survey_soma(moved, LIMITS, datasets=None)
    gone = Source("soma", address_of(str(tmp_path / "gone")), "2026-01-05", "homo_sapiens")
    with pytest.raises(SourceChangedError, match="it was there when surveyed"):
        SomaFetcher(dataclasses.replace(survey, source=gone), survey.genes, FetchOptions(), LIMITS)
    with pytest.raises(ConfigError):
        survey_soma(gone, LIMITS, datasets=None)


def build_plain(path: Path, rows, columns, values, *, shape=(10, 4), duplicates=False) -> Source:
    """A Census of one array written by hand: what a builder would not write."""
    import pyarrow as pa

    def frame(place: Path, table: pa.Table) -> None:
        domain = [[0, max(len(table) - 1, 0)]]
        tiledbsoma.DataFrame.create(str(place), schema=table.schema, domain=domain).close()
        with tiledbsoma.open(str(place), "w") as handle:
            handle.write(table)

    organism = path / "census_data" / "homo_sapiens"
    (organism / "ms" / "RNA" / "X").mkdir(parents=True)
    (path / "census_info").mkdir()
    cells, genes = pa.array(range(shape[0]), pa.int64()), pa.array(range(shape[1]), pa.int64())
    frame(organism / "obs", pa.table({"soma_joinid": cells}))
    ids = pa.array([f"g{j}" for j in range(shape[1])], pa.large_string())
    frame(organism / "ms/RNA/var", pa.table({"soma_joinid": genes, "feature_id": ids}))
    raw = organism / "ms/RNA/X/raw"
    options = tiledbsoma.TileDBCreateOptions(allows_duplicates=duplicates)
    tiledbsoma.SparseNDArray.create(str(raw), type=pa.float32(), shape=shape, platform_config=options).close()
    with tiledbsoma.open(str(raw), "w") as handle:
        handle.write(
            pa.table(
                {
                    "soma_dim_0": pa.array(rows, pa.int64()),
                    "soma_dim_1": pa.array(columns, pa.int64()),
                    "soma_data": pa.array(values, pa.float32()),
                }
            )
        )
    for kind, place, members in (
        (tiledbsoma.Collection, organism / "ms/RNA/X", ["raw"]),
        (tiledbsoma.Measurement, organism / "ms/RNA", ["var", "X"]),
        (tiledbsoma.Collection, organism / "ms", ["RNA"]),
        (tiledbsoma.Experiment, organism, ["obs", "ms"]),
        (tiledbsoma.Collection, path / "census_data", ["homo_sapiens"]),
        (tiledbsoma.Collection, path / "census_info", []),
        (tiledbsoma.Collection, path, ["census_data", "census_info"]),
    ):
        with kind.create(str(place)) as group:
            for name in members:
                with tiledbsoma.open(str(place / name)) as member:
                    group.set(name, member, use_relative_uri=True)
    return Source("soma", address_of(str(path)), "", "homo_sapiens")


def test_cells_without_counts_are_empty_rows(tmp_path):
    source = build_plain(tmp_path / "c", [1, 1, 8], [3, 0, 2], [5, 2, 1])
    survey = survey_soma(source, LIMITS, datasets=None)
    reader = SomaFetcher(survey, survey.genes, FetchOptions(), LIMITS)
    counts = reader.read(np.array([9, 8, 1, 0])).counts
    assert counts.indptr.tolist() == [0, 0, 1, 3, 3]
    assert (counts.indices.tolist(), counts.data.tolist()) == ([2, 0, 3], [1, 2, 5])
    reader.close()


@pytest.mark.parametrize(("value", "kind"), [(0.5, "fractional"), (np.nan, "nan"), (-1, "negative")])
def test_what_is_no_count_in_a_narrow_type(tmp_path, value, kind):
    survey = survey_soma(build_plain(tmp_path / "c", [1], [3], [value]), LIMITS, datasets=None)
    reader = SomaFetcher(survey, survey.genes, FetchOptions("int32"), LIMITS)
    with pytest.raises(NotCountsError) as caught:
        reader.read(np.array([0, 1]))
    assert caught.value.kind == kind
    reader.close()


def test_a_count_that_overflows_names_itself(tmp_path):
    survey = survey_soma(build_plain(tmp_path / "c", [1, 2], [3, 3], [65_536, 70_000]), LIMITS, datasets=None)
    reader = SomaFetcher(survey, survey.genes, FetchOptions("uint16"), LIMITS)
    with pytest.raises(NotCountsError, match=r"row 1, column 3 .*largest value is 70000\.0") as caught:
        reader.read(np.array([0, 1, 2]))
    assert caught.value.kind == "count-overflow"
    reader.close()


def test_duplicate_coordinates_are_refused(tmp_path):
    survey = survey_soma(build_plain(tmp_path / "c", [1, 1], [3, 3], [1, 2], duplicates=True), LIMITS, datasets=None)
    reader = SomaFetcher(survey, survey.genes, FetchOptions(), LIMITS)
    with pytest.raises(SourceError, match="row 1 holds gene column 3 of the result twice") as caught:
        reader.read(np.array([1]))
    assert caught.value.kind == "duplicate-entry"
    reader.close()


def test_a_damaged_tile_is_an_error(tmp_path):
    source = build_plain(tmp_path / "c", range(10), [1] * 10, range(1, 11))
    survey = survey_soma(source, LIMITS, datasets=None)
    for file in (tmp_path / "c").glob("census_data/*/ms/RNA/X/raw/__fragments/*/a0.tdb"):
        data = bytearray(file.read_bytes())
        data[: len(data)] = b"\xff" * len(data)
        file.write_bytes(data)
    reader = SomaFetcher(survey, survey.genes, FetchOptions(), LIMITS)
    with pytest.raises(SourceError) as caught:
        reader.read(np.array([1, 2]))
    assert "\n" not in str(caught.value)
    reader.close()


@settings(max_examples=examples(40), deadline=None)
@given(st.sets(st.integers(0, 300)), st.integers(0, 20))
def test_ranges_hold_the_values_and_no_wide_gap(values, gap):
    ordered = np.array(sorted(values), np.int64)
    ranges = ranges_of(ordered, gap)
    assert all(begin - end > gap + 1 for end, begin in zip(ranges[:-1, 1], ranges[1:, 0], strict=True))
    if not values:
        return
    assert len(ranges) == 1 + int((np.diff(ordered) > gap + 1).sum())
    coordinate = coordinate_of(ranges)
    points = range(coordinate.start, coordinate.stop + 1) if isinstance(coordinate, slice) else coordinate.tolist()
    assert values <= set(points)
    assert len(set(points)) == len(points) == sum(end - begin + 1 for begin, end in ranges)
    assert set(ranges.ravel().tolist()) <= values


@settings(max_examples=examples(40), deadline=None)
@given(st.sets(st.integers(0, 300)), st.integers(1, 50), st.integers(0, 100))
def test_pieces_never_split_a_band(values, band, most):
    ordered = np.array(sorted(values), np.int64)
    pieces = split_rows(ordered, band, most)
    np.testing.assert_array_equal(np.concatenate(pieces), ordered)
    for piece in pieces:
        assert len(piece) <= most or len(set((piece // band).tolist())) <= 1
    for before, after in itertools.pairwise(pieces):
        assert before[-1] // band < after[0] // band


REAL = Path(__file__).parents[3] / ".." / "shared" / "data" / "census_like_soma"


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.exists(), reason="no ../shared/data beside this checkout")
@pytest.mark.parametrize("organism", ["homo_sapiens", "mus_musculus"])
def test_real_counts(organism):
    survey = survey_soma(Source("soma", address_of(str(REAL)), "", organism), LIMITS, datasets=None)
    rows = np.random.default_rng(0).permutation(survey.n_obs)
    with cellxgene_census.open_soma(uri=str(REAL.resolve())) as opened:
        adata = cellxgene_census.get_anndata(opened, organism)
    reader = SomaFetcher(survey, survey.genes, FetchOptions(), LIMITS)
    same(reader.read(rows).counts, sp.csr_matrix(adata.X)[rows])
    reader.close()
