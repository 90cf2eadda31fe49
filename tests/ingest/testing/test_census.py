import hashlib
import json
import subprocess
import sys

import cellxgene_census
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiledbsoma as soma
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.testing.census import BuiltCensus, CensusSpec, build_census, cached_census
from ingest.testing.census_counts import Sampler, tile_ordered
from ingest.testing.census_model import draw_models
from ingest.testing.examples import examples

SPEC = CensusSpec(
    n_cells=5_000,
    n_genes=3_000,
    mean_nnz_per_cell=300,
    organisms=("homo_sapiens", "mus_musculus"),
    duplicate_fraction=0.12,
    normalized=True,
)
SMALL = CensusSpec(n_cells=300, n_genes=120, mean_nnz_per_cell=20, n_datasets=3)
ORGANISMS = [("homo_sapiens", "Homo sapiens"), ("mus_musculus", "Mus musculus")]
LABELS = [
    *("dataset_id", "assay", "assay_ontology_term_id", "cell_type", "cell_type_ontology_term_id"),
    *("development_stage", "development_stage_ontology_term_id", "disease", "disease_ontology_term_id", "donor_id"),
    *("self_reported_ethnicity", "self_reported_ethnicity_ontology_term_id", "sex", "sex_ontology_term_id"),
    *("suspension_type", "tissue", "tissue_ontology_term_id", "tissue_type"),
    *("tissue_general", "tissue_general_ontology_term_id"),
]
OTHERS = {
    **{"soma_joinid": pa.int64(), "is_primary_data": pa.bool_(), "observation_joinid": pa.large_string()},
    **{"raw_sum": pa.float64(), "nnz": pa.int64(), "raw_mean_nnz": pa.float64()},
    **{"raw_variance_nnz": pa.float64(), "n_measured_vars": pa.int64()},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_census(tmp_path_factory.mktemp("census") / "soma", SPEC)


@pytest.fixture(scope="module")
def census(built):
    with cellxgene_census.open_soma(uri=built.uri) as opened:
        yield opened


def read_x(census, organism, layer="raw"):
    """Read a whole layer by plain tiledbsoma, as CSR."""
    array = census["census_data"][organism].ms["RNA"].X[layer]
    table = array.read().tables().concat()
    rows, columns, values = (table[name].to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
    matrix = sparse.csr_matrix((values, (rows, columns)), shape=array.shape)
    assert matrix.nnz == len(values), "an entry stands twice"
    return matrix


def read_obs(census, organism):
    return census["census_data"][organism].obs.read().concat().to_pandas()


def read_var(census, organism):
    return census["census_data"][organism].ms["RNA"].var.read().concat().to_pandas()


def digest(path):
    """Digest all arrays as read back, column by column."""
    total = hashlib.sha256()
    with cellxgene_census.open_soma(uri=str(path)) as census:
        for organism in census["census_data"]:
            matrix = read_x(census, organism)
            for part in (matrix.indptr, matrix.indices, matrix.data):
                total.update(part.tobytes())
            for frame in (read_obs(census, organism), read_var(census, organism)):
                total.update(frame.to_csv().encode())
        for name in ("summary", "datasets", "organisms", "summary_cell_counts"):
            total.update(census["census_info"][name].read().concat().to_pandas().to_csv().encode())
    return total.hexdigest()


def test_layout_is_that_of_census(census):
    assert set(census) == {"census_info", "census_data"}
    assert set(census["census_info"]) == {"summary", "datasets", "summary_cell_counts", "organisms"}
    summary = census["census_info"]["summary"].read().concat().to_pandas().set_index("label")["value"]
    assert summary["census_build_date"] == SPEC.build_date
    assert summary["total_cell_count"] == "10000"
    assert summary["unique_cell_count"] == str(2 * (5_000 - 600))
    for organism, _ in ORGANISMS:
        assert set(census["census_data"][organism].ms["RNA"]) == {"var", "X", "feature_dataset_presence_matrix"}
        assert set(census["census_data"][organism].ms["RNA"].X) == {"raw", "normalized"}


def test_obs_has_every_column_with_the_real_type(census):
    schema = census["census_data"]["homo_sapiens"].obs.schema
    assert {field.name for field in schema} == {*LABELS, *OTHERS}
    for name, kind in OTHERS.items():
        assert schema.field(name).type == kind
    for name in LABELS:
        assert pa.types.is_dictionary(schema.field(name).type), name
        assert schema.field(name).type.value_type == pa.large_string()


def test_x_has_the_tiles_and_settings_of_census(census):
    array = census["census_data"]["homo_sapiens"].ms["RNA"].X["raw"]
    options = array.schema_config_options()
    dims = json.loads(options.dims)
    assert (dims["soma_dim_0"]["tile"], dims["soma_dim_1"]["tile"]) == ("2048", "2048")
    assert [f["name"] for f in dims["soma_dim_1"]["filters"]] == ["BYTESHUFFLE", "ZSTD"]
    assert [f["name"] for f in json.loads(options.attrs)["soma_data"]["filters"]] == ["BYTESHUFFLE", "ZSTD"]
    assert (options.capacity, options.allows_duplicates) == (65_536, True)
    assert (options.cell_order, options.tile_order) == ("row-major", "row-major")
    assert array.schema.field("soma_data").type == pa.float32()
    assert array.shape == (SPEC.n_cells, SPEC.n_genes)


# Cells come with integer joinids, of which get_anndata makes names, and says so.
@pytest.mark.filterwarnings("ignore:Transforming to str index")
@pytest.mark.parametrize(("organism", "label"), ORGANISMS)
def test_get_anndata_over_a_filter_equals_a_direct_read(census, organism, label):
    found = cellxgene_census.get_anndata(
        census, label, obs_value_filter="is_primary_data == True and disease != 'normal'", obs_column_names=["disease"]
    )
    obs = read_obs(census, organism)
    wanted = np.flatnonzero(obs["is_primary_data"] & (obs["disease"] != "normal"))
    assert 0 < len(wanted) < len(obs)
    direct = read_x(census, organism)[wanted]
    assert (direct != found.X).nnz == 0
    assert list(found.obs["disease"]) == list(obs["disease"].iloc[wanted])


@pytest.mark.parametrize("organism", [name for name, _ in ORGANISMS])
def test_statistics_of_cells_and_genes_are_exact(census, organism):
    matrix, obs, var = read_x(census, organism), read_obs(census, organism), read_var(census, organism)
    np.testing.assert_array_equal(obs["raw_sum"], np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel())
    np.testing.assert_array_equal(obs["nnz"], np.diff(matrix.indptr))
    for cell in range(0, SPEC.n_cells, 97):
        counts = matrix[cell].data.astype(np.float64)
        assert obs["raw_mean_nnz"][cell] == pytest.approx(counts.mean())
        assert obs["raw_variance_nnz"][cell] == pytest.approx(counts.var(ddof=1))
    np.testing.assert_array_equal(var["nnz"], matrix.getnnz(axis=0))
    assert matrix.data.min() >= 1
    assert (matrix.data == np.round(matrix.data)).all()


@pytest.mark.parametrize(("organism", "label"), ORGANISMS)
def test_presence_agrees_with_counts(census, organism, label):
    presence = cellxgene_census.get_presence_matrix(census, label).toarray().astype(bool)
    matrix, obs, var = read_x(census, organism), read_obs(census, organism), read_var(census, organism)
    datasets = census["census_info"]["datasets"].read().concat().to_pandas()
    measured_obs = np.zeros(SPEC.n_genes, int)
    for dataset_id, cells in obs.groupby("dataset_id", observed=True):
        row = datasets.set_index("dataset_id").loc[dataset_id]
        measured = presence[row["soma_joinid"]]
        assert row["dataset_total_cell_count"] == len(cells)
        assert (cells["n_measured_vars"] == measured.sum()).all()
        assert matrix[cells.index].getnnz(axis=0)[~measured].sum() == 0
        measured_obs += measured * len(cells)
    np.testing.assert_array_equal(var["n_measured_obs"], measured_obs)
    mine = datasets["dataset_id"].isin(obs["dataset_id"])
    assert not presence[np.flatnonzero(mine)].all()


@pytest.mark.parametrize("organism", [name for name, _ in ORGANISMS])
def test_a_filter_on_every_label_gives_its_rows(census, organism):
    frame, obs = census["census_data"][organism].obs, read_obs(census, organism)
    for column in LABELS:
        for label, expected in obs[column].value_counts().items():
            found = frame.read(value_filter=f'{column} == "{label}"', column_names=["soma_joinid"]).concat()
            assert len(found) == expected > 0, (column, label)


def test_labels_are_as_varied_as_real_ones(census):
    obs = read_obs(census, "homo_sapiens")
    assert {"normal", "COVID-19 || pneumonia"} <= set(obs["disease"])
    assert obs.loc[obs["disease"] == "COVID-19 || pneumonia", "disease_ontology_term_id"].unique() == [
        "MONDO:0100096 || MONDO:0005249"
    ]
    assert (obs.groupby("donor_id", observed=True)["disease"].nunique() == 1).all()
    for name in ("assay", "cell_type", "tissue", "tissue_general", "suspension_type"):
        assert obs[name].nunique() > 1
    changes = (obs["dataset_id"] != obs["dataset_id"].shift()).sum()
    assert changes == obs["dataset_id"].nunique() == SPEC.n_datasets, "datasets lie contiguously"
    assert obs["observation_joinid"].is_unique


def test_genes_are_irregular(census):
    for organism, prefix in (("homo_sapiens", "ENSG"), ("mus_musculus", "ENSMUSG")):
        var = read_var(census, organism)
        assert var["feature_id"].is_unique
        assert var["feature_id"].str.fullmatch(rf"{prefix}\d{{11}}").all()
        assert not var["feature_id"].is_monotonic_increasing
        assert 0 < var["feature_name"].duplicated().sum() < 20
        assert var["feature_name"].str.match("(?i)mt-").sum() >= 13
        assert var["feature_length"].between(60, 205_000).all()


def test_duplicates_repeat_cells_of_other_datasets(census):
    matrix, obs = read_x(census, "homo_sapiens"), read_obs(census, "homo_sapiens")
    copies = np.flatnonzero(~obs["is_primary_data"])
    assert len(copies) == SPEC.n_duplicates
    rows = {
        matrix.data[start:stop].tobytes() + matrix.indices[start:stop].tobytes(): cell
        for cell, (start, stop) in enumerate(zip(matrix.indptr, matrix.indptr[1:], strict=False))
        if obs["is_primary_data"][cell]
    }
    assert len(rows) == SPEC.n_primary, "cells counted once differ from each other"
    shared = ["cell_type", "donor_id", "tissue", "assay", "disease"]
    for copy in copies:
        start, stop = matrix.indptr[copy : copy + 2]
        original = rows[matrix.data[start:stop].tobytes() + matrix.indices[start:stop].tobytes()]
        assert obs["dataset_id"][original] != obs["dataset_id"][copy]
        assert list(obs.loc[original, shared]) == list(obs.loc[copy, shared])


def test_counts_look_like_single_cells(census):
    matrix, obs = read_x(census, "homo_sapiens"), read_obs(census, "homo_sapiens")
    assert obs["nnz"].mean() == pytest.approx(SPEC.mean_nnz_per_cell, rel=0.08)
    assert 0.35 < np.log(obs["raw_sum"]).std() < 0.8
    assert matrix.data.max() > 50
    assert (matrix.data == 1).mean() > 0.4
    model = next(draw_models(SPEC))
    shares = sparse.diags(1 / obs["raw_sum"].to_numpy()) @ matrix
    for label in obs["cell_type"].unique():
        inside = (obs["cell_type"] == label).to_numpy()
        genes = model.markers[label]
        if inside.sum() < 50:
            continue
        within, outside = (np.asarray(shares[part][:, genes].mean(axis=0)).ravel() for part in (inside, ~inside))
        # Gene by gene: in the sum one abundant gene, a marker of two types, can outweigh the thirty others.
        assert np.median(within[outside > 0] / outside[outside > 0]) > 3, label


def test_normalized_layer_holds_shares(census):
    shares, raw = read_x(census, "homo_sapiens", "normalized"), read_x(census, "homo_sapiens")
    np.testing.assert_array_equal(shares.indices, raw.indices)
    np.testing.assert_allclose(np.asarray(shares.sum(axis=1)).ravel(), 1, rtol=1e-5)


def test_the_same_spec_gives_the_same_census_and_another_seed_another(tmp_path):
    first, second = (digest(build_census(tmp_path / name, SMALL).path) for name in ("a", "b"))
    other = digest(build_census(tmp_path / "c", CensusSpec(**{**_fields(SMALL), "seed": 1})).path)
    assert first == second != other


def _fields(spec):
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def test_progress_ends_with_all_cells(tmp_path):
    seen = []
    build_census(tmp_path / "a", SMALL, progress=lambda *report: seen.append(report))
    assert seen[-1] == (SMALL.n_cells, SMALL.n_cells)
    with pytest.raises(FileExistsError, match="new folder"):
        build_census(tmp_path / "a", SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"organisms": ("homo_erectus",)}, "homo_erectus"),
        ({"organisms": ()}, "choose from"),
        ({"n_datasets": 0}, "0 datasets"),
        ({"n_datasets": 1}, "single dataset"),
        ({"duplicate_fraction": 0.6}, "below 0.5"),
        ({"mean_nnz_per_cell": 20_000}, "at most 0.4"),
    ],
)
def test_an_impossible_spec_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CensusSpec(**wrong)


def test_one_dataset_without_duplicates(tmp_path):
    spec = CensusSpec(n_cells=50, n_genes=80, mean_nnz_per_cell=10, n_datasets=1, duplicate_fraction=0)
    with cellxgene_census.open_soma(uri=build_census(tmp_path / "a", spec).uri) as census:
        assert read_obs(census, "homo_sapiens")["is_primary_data"].all()


def test_cache_builds_once_and_replaces_torn_builds(tmp_path):
    torn = tmp_path / f"census-{SMALL.digest}.partial"
    torn.mkdir()
    (torn / "half").write_text("an array")
    built = cached_census(tmp_path, SMALL)
    assert not torn.exists()
    assert built == BuiltCensus(tmp_path / f"census-{SMALL.digest}", SMALL)
    before = digest(built.path)

    def rebuild(*_):
        pytest.fail("built again")

    assert cached_census(tmp_path, SMALL, progress=rebuild) == built
    assert digest(built.path) == before


_BUILDER = """
import sys, time
from pathlib import Path
from ingest.testing.census import CensusSpec, cached_census

def progress(done, total):
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))

print(cached_census(Path(sys.argv[1]), CensusSpec(**eval(sys.argv[3])), progress=progress).uri)
"""


def _start(folder, pause_s):
    command = [sys.executable, "-c", _BUILDER, str(folder), str(pause_s), repr(_fields(SMALL))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_both_end_well_after_a_third_was_killed(tmp_path):
    with _start(tmp_path, 120) as killed:
        assert killed.stdout.readline() == "building\n"
        with _start(tmp_path, 0) as first, _start(tmp_path, 0) as second:
            killed.kill()
            said = [process.communicate()[0].split() for process in (first, second)]
    path = tmp_path / f"census-{SMALL.digest}"
    assert sorted(said, key=len) == [[str(path)], ["building", str(path)]], "one builds, the other waits"
    assert {child.name for child in tmp_path.iterdir()} == {path.name, f"{path.name}.lock"}
    with soma.open(str(path)) as root:
        assert root["census_data"]["homo_sapiens"].obs.count == SMALL.n_cells


@st.composite
def cells(draw):
    n_genes, n_profiles = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    profiles = rng.random((n_profiles, n_genes)).astype(np.float32) ** 4
    profiles *= rng.random((n_profiles, n_genes)) < 0.7
    profiles[:, 0] += np.float32(1e-3)
    profiles /= profiles.sum(axis=1, keepdims=True)
    n_cells = draw(st.integers(1, 12))
    return profiles, seed, rng.integers(0, n_profiles, n_cells), rng.integers(1, 60, n_cells), np.arange(n_cells)


@settings(max_examples=examples(24), deadline=None)
@given(cells(), st.integers(1, 7), st.integers(1, 16))
def test_draws_do_not_depend_on_the_cut_and_lie_in_tile_order(drawn, cut, extent):
    profiles, seed, profile, library, identity = drawn
    sampler = Sampler(profiles, seed)
    whole = sampler.draw(profile, library, identity)
    parts = [
        sampler.draw(profile[start : start + cut], library[start : start + cut], identity[start : start + cut])
        for start in range(0, len(profile), cut)
    ]
    np.testing.assert_array_equal(whole.data, np.concatenate([part.data for part in parts]))
    np.testing.assert_array_equal(whole.indices, np.concatenate([part.indices for part in parts]))

    rows = np.repeat(identity, np.diff(whole.indptr))
    np.testing.assert_array_equal(np.bincount(rows, whole.data), library)
    assert (profiles[profile[rows], whole.indices] > 0).all(), "a gene that was not measured has counts"
    order = np.lexsort((whole.indices, rows, whole.indices // extent))
    tiled = tile_ordered(whole, 100, profiles.shape[1], extent)
    for found, expected in zip(tiled, (rows + 100, whole.indices, whole.data), strict=True):
        np.testing.assert_array_equal(found, expected[order])


def test_sampling_follows_the_profile():
    profile = np.array([[0.5, 0.3, 0, 0.15, 0.05]], np.float32)
    n_cells, library = 200, 1_000
    drawn = Sampler(profile, 3).draw(np.zeros(n_cells, int), np.full(n_cells, library), np.arange(n_cells))
    totals = np.bincount(drawn.indices, drawn.data, minlength=5) / (n_cells * library)
    np.testing.assert_allclose(totals, profile[0], atol=0.005)
    per_cell = pd.Series(drawn.data[drawn.indices == 0])
    assert per_cell.var() == pytest.approx(library * 0.25, rel=0.35), "multinomial, neither fixed nor overdispersed"
