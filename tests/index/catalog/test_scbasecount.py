"""index scbasecount: the rows of the right cells, read by columns and row groups, the same ones every time."""

from __future__ import annotations

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.build import ScBaseCountOptions, index_scbasecount
from index.catalog.bucket import Bucket
from index.catalog.parquet_table import ParquetTable
from index.catalog.scbasecount import ScBaseCountCatalog, Wanted
from index.draw import SampleDraw
from index.sample import Sampling
from index.write import ORIGIN_KEY
from ingest.errors import ConfigError, CredentialsError, EmptySelectionError
from ingest.fetch import h5ad_remote
from ingest.grammar import parse_filter
from ingest.source import Source
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount, put_scbasecount
from ingest.testing.scbasecount_damage import damage_sample

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SPEC = ScBaseCountSpec(mean_cells=40, n_genes=120, mean_molecules=40, row_group=50)
FOLDER = ("2026-01-12", "GeneFull_Ex50pAS", "Homo_sapiens")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_scbasecount(tmp_path_factory.mktemp("scb") / "bucket", SPEC)


@pytest.fixture(scope="module")
def joined(built):
    """What the metadata say of every cell, by pandas."""
    folder = built.path / FOLDER[0] / "metadata" / FOLDER[1] / FOLDER[2]
    samples = pq.read_table(folder / "sample_metadata.parquet").to_pandas()
    cells = pq.read_table(folder / "obs_metadata.parquet").to_pandas()
    return cells.merge(samples, left_on="SRX_accession", right_on="srx_accession")


def made(tmp_path, built, **options):
    path = tmp_path / "index.feather"
    report = index_scbasecount(ScBaseCountOptions(path, root=str(built.path), **options))
    return report, pd.read_feather(path)


def keys(table):
    return set(zip(table["SRX_accession"], table["cell_barcode"], strict=True))


def check_rows(table):
    """Hold every row against its file, read by plain anndata."""
    for source, mine in table.groupby("source", observed=True):
        file = anndata.read_h5ad(Source.parse(source).path)
        assert list(file.obs_names[mine["row"]]) == list(mine["cell_barcode"])
        for name in ("gene_count", "umi_count"):
            assert list(file.obs[name].to_numpy()[mine["row"]]) == list(mine[name])


def test_every_cell_stands_at_its_row_even_out_of_order(tmp_path, built, joined):
    report, table = made(tmp_path, built)
    assert report.cells == len(joined) == len(table)
    assert keys(table) == keys(joined)
    check_rows(table)
    assert (table["soma_joinid"] == -1).all()
    assert not table.duplicated(["source", "row"]).any()
    per_sample = table.groupby("SRX_accession", observed=True)
    assert any(not mine["row"].is_monotonic_increasing for _, mine in per_sample), "nothing was out of order"


def test_trusting_the_order_of_the_metadata_is_wrong_where_it_is_wrong(tmp_path, built):
    _, trusted = made(tmp_path, built, trust_order=True)
    _, looked = made(tmp_path, built)
    wrong = trusted[trusted["row"] != looked["row"]]["SRX_accession"]
    assert wrong.nunique() == 1


def test_columns_of_samples_stand_beside_those_of_cells(tmp_path, built, joined):
    _, table = made(tmp_path, built)
    wanted = joined.set_index(["SRX_accession", "cell_barcode"])
    found = table.set_index(["SRX_accession", "cell_barcode"])
    for name in ("tissue", "disease", "tech_10x", "cell_prep", "obs_count", "cell_type", "czi_collection_id"):
        expected = wanted.loc[found.index, name].astype(object).where(lambda column: column.notna(), None)
        given = found[name].astype(object).where(lambda column: column.notna(), None)
        assert list(given) == list(expected), name
    assert "" in set(found["cell_type"])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("tissue == 'lung'", "tissue == 'lung'"),
        ("umi_count > 45", "umi_count > 45"),
        ("tissue == 'lung' and umi_count > 45", "tissue == 'lung' and umi_count > 45"),
        ("tissue == 'lung' or umi_count > 45", "tissue == 'lung' or umi_count > 45"),
        ("not (tissue in ['lung', 'blood'] or cell_type == '')", "tissue not in ['lung', 'blood'] and cell_type != ''"),
        (
            "(tissue == 'lung' and gene_count < 30) or (tissue == 'blood' and cell_type == 'T cell')",
            "(tissue == 'lung' and gene_count < 30) or (tissue == 'blood' and cell_type == 'T cell')",
        ),
        ("srx_accession == 'SRX1009491' and umi_count >= 40", "SRX_accession == 'SRX1009491' and umi_count >= 40"),
        ("obs_count >= 40 and cell_type < 'M'", "obs_count >= 40 and cell_type < 'M'"),
    ],
)
def test_filters_mix_samples_and_cells(tmp_path, built, joined, text, query):
    _, table = made(tmp_path, built, value_filter=text)
    assert keys(table) == keys(joined.query(query))
    check_rows(table)


def test_columns_asked_for_and_those_that_are_always_there(tmp_path, built):
    _, table = made(tmp_path, built, columns=("tissue", "entrez_id"))
    always = {"SRX_accession", "cell_barcode", "obs_count", "czi_collection_id"}
    assert set(table.columns) == {"source", "soma_joinid", "row", "tissue", "entrez_id"} | always


# -- draws -------------------------------------------------------------------------------------------------------------


def test_a_draw_takes_whole_samples_and_cuts_the_last(tmp_path, built):
    report, table = made(tmp_path, built, sampling=SampleDraw(150, 3))
    sizes = table.groupby("SRX_accession", observed=True).agg({"row": "size", "obs_count": "first"})
    assert len(table) == 150
    assert (sizes["row"] < sizes["obs_count"]).sum() <= 1
    check_rows(table)
    again = made(tmp_path, built, sampling=SampleDraw(150, 3))[1]
    pd.testing.assert_frame_equal(table, again)
    other = made(tmp_path, built, sampling=SampleDraw(150, 4))[1]
    assert keys(other) != keys(table)
    assert any("samples drawn, seed 3" in note for note in report.notes)


def test_the_last_sample_whole(tmp_path, built):
    _, table = made(tmp_path, built, sampling=SampleDraw(150, 3, "whole"))
    sizes = table.groupby("SRX_accession", observed=True).agg({"row": "size", "obs_count": "first"})
    assert (sizes["row"] == sizes["obs_count"]).all()
    assert len(table) >= 150


def test_a_draw_counts_the_cells_that_match(tmp_path, built, joined):
    _, table = made(tmp_path, built, value_filter="umi_count > 45", sampling=SampleDraw(60, 1))
    assert len(table) == 60
    assert (table["umi_count"] > 45).all()
    matching = joined[joined["umi_count"] > 45].groupby("SRX_accession").size()
    taken = table.groupby("SRX_accession", observed=True).size()
    assert (taken < matching[taken.index]).sum() <= 1


def test_tissues_share_a_draw(tmp_path, built, joined):
    _, table = made(tmp_path, built, sampling=SampleDraw(100, 0, stratify="tissue", shares="equal"))
    shares = table["tissue"].astype(str).value_counts()
    there = joined["tissue"].value_counts()
    assert shares.sum() == 100
    assert all(count == 20 or count == there[tissue] or count > 20 for tissue, count in shares.items())


def test_cells_may_be_drawn_from_all_samples(tmp_path, built):
    _, table = made(tmp_path, built, sampling=Sampling(100, by="cell"))
    assert len(table) == 100
    check_rows(table)


def test_the_choice_is_written_down(tmp_path, built):
    made(tmp_path, built, value_filter="tissue == 'lung'", sampling=SampleDraw(20, 9))
    about = json.loads(pa.ipc.open_file(tmp_path / "index.feather").schema.metadata[ORIGIN_KEY])
    assert about["release"] == "2026-01-12"
    assert about["value_filter"] == "tissue == 'lung'"
    assert (about["sampling"]["cells"], about["sampling"]["seed"]) == (20, 9)


def test_collections_that_a_census_has_are_left_out(tmp_path, built):
    report, table = made(tmp_path, built, exclude_czi=True)
    assert not any(name.startswith("NRX") for name in table["SRX_accession"])
    assert any("1 sample of CELLxGENE collections left out" in note for note in report.notes)
    _, older = made(tmp_path, built, exclude_czi=True, release="2025-02-25")
    assert not any(name.startswith("NRX") for name in older["SRX_accession"])


# -- what is read ------------------------------------------------------------------------------------------------------


def test_only_the_columns_and_row_groups_needed_are_read(built):
    catalog = ScBaseCountCatalog.open(root=str(built.path))
    wanted = Wanted(parse_filter("srx_accession == 'SRX1009491'"), columns=("tissue",))
    cells = catalog.cells(wanted)
    before = catalog.obs.bytes_read
    n_cells = sum(len(batch) for batch in cells.batches())
    whole = pq.read_table(catalog.obs.url, columns=["SRX_accession"])["SRX_accession"].to_pylist()
    first, last = whole.index("SRX1009491"), len(whole) - 1 - whole[::-1].index("SRX1009491")
    assert n_cells == last - first + 1
    assert catalog.obs.groups_read == last // SPEC.row_group - first // SPEC.row_group + 1 < catalog.obs.n_groups
    assert catalog.obs.bytes_read - before < 4 * SPEC.row_group * 60, "no more than some bytes a cell of these groups"


def test_of_a_row_group_the_columns_asked_for_are_read_and_no_other_byte(tmp_path):
    path, rng = tmp_path / "table.parquet", np.random.default_rng(0)
    names = [f"SRX{number}" for number in range(10) for _ in range(100)]
    filler = [rng.bytes(1000) for _ in names]
    pq.write_table(pa.table({"SRX_accession": names, "filler": filler, "count": range(1000)}), path, row_group_size=100)
    table = ParquetTable(Bucket(str(tmp_path)).filesystem, str(path))
    groups = table.groups_with("SRX_accession", ["SRX3", "SRX7"])
    before = table.bytes_read
    found = pa.concat_tables(table.batches(["SRX_accession", "count"], groups))
    assert found["count"].to_pylist() == [*range(300, 400), *range(700, 800)]
    meta = pq.read_metadata(path)
    chunks = [meta.row_group(group).column(column) for group in (3, 7) for column in (0, 2)]
    assert table.bytes_read - before == sum(chunk.total_compressed_size for chunk in chunks)
    assert table.groups_read == 2


def test_a_filter_of_samples_reads_no_cells_of_others(built):
    catalog = ScBaseCountCatalog.open(root=str(built.path))
    cells = catalog.cells(Wanted(parse_filter("tissue == 'lung' and umi_count > 0"), draw=SampleDraw(5)))
    counted = catalog.obs.groups_read
    lung = catalog.obs.groups_with("SRX_accession", cells.chosen.accessions)
    assert 0 < counted < catalog.obs.n_groups
    list(cells.batches())
    assert catalog.obs.groups_read == counted + len(lung)


def test_groups_without_extremes_may_hold_anything(tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"SRX_accession": ["A", "B"]}), path, row_group_size=1, write_statistics=False)
    table = ParquetTable(Bucket(str(tmp_path)).filesystem, str(path))
    assert table.groups_with("SRX_accession", ["B"]) == [0, 1]


def test_texts_that_are_no_text_are_refused_by_the_table_and_its_extremes_decide_nothing(tmp_path):
    path = tmp_path / "table.parquet"
    names = pa.table({"SRX_accession": ["SRX1", "SRX2"], "tissue": ["lung", "lung"]})
    pq.write_table(names, path, row_group_size=1, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"SRX1", b"SR\xff1"))
    table = ParquetTable(Bucket(str(tmp_path)).filesystem, str(path))
    assert table.groups_with("SRX_accession", ["SRX2"]) == [0, 1]
    assert table.read(["tissue"])["tissue"].to_pylist() == ["lung", "lung"]
    with pytest.raises(ConfigError, match=r"table\.parquet: cannot be read \(.*UTF8") as caught:
        table.read(["SRX_accession"])
    assert caught.value.kind == "no-metadata"


# -- what is not there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "there"),
    [
        ({"release": "2025-02-26"}, "unknown-release", "2025-02-25, 2026-01-12"),
        ({"feature": "GeneFul"}, "unknown-feature", "Gene, GeneFull_Ex50pAS"),
        ({"organism": "Danio_rerio"}, "unknown-organism", "Homo_sapiens, Mus_musculus"),
    ],
)
def test_what_does_not_exist_lists_what_does(tmp_path, built, options, kind, there):
    with pytest.raises(ConfigError) as raised:
        made(tmp_path, built, **options)
    assert raised.value.kind == kind
    assert there in raised.value.hint


def test_organisms_are_named_as_people_do(tmp_path, built):
    assert made(tmp_path, built, organism="mus musculus")[0].cells > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("tisue == 'lung'", "did you mean 'tissue'"), ("umi_count == 'many'", "holds numbers")],
)
def test_bad_filters(tmp_path, built, text, said):
    with pytest.raises(ConfigError, match=said):
        made(tmp_path, built, value_filter=text)


@pytest.mark.parametrize("text", ["tissue == 'lnug'", "tissue == 'lnug' and umi_count > 3"])
@pytest.mark.parametrize("draw", [None, SampleDraw(10)])
def test_a_value_that_no_sample_has(tmp_path, built, text, draw):
    with pytest.raises(EmptySelectionError, match="did you mean 'lung'"):
        made(tmp_path, built, value_filter=text, sampling=draw)


@pytest.mark.parametrize("draw", [None, SampleDraw(10)])
def test_a_value_that_no_cell_has(tmp_path, built, draw):
    with pytest.raises(EmptySelectionError, match="did you mean 'T cell'"):
        made(tmp_path, built, value_filter="cell_type == 'T cel'", sampling=draw)


def test_cells_do_not_stratify_samples(tmp_path, built):
    with pytest.raises(ConfigError, match="differs from cell to cell"):
        made(tmp_path, built, sampling=SampleDraw(10, stratify="cell_type"))


def test_a_folder_that_is_no_scbasecount(tmp_path):
    with pytest.raises(ConfigError) as raised:
        index_scbasecount(ScBaseCountOptions(tmp_path / "i.feather", root=str(tmp_path)))
    assert raised.value.kind == "unknown-release"


# -- files that are bad when indexed -----------------------------------------------------------------------------------


@pytest.fixture
def damaged(built, tmp_path):
    copy = type(built)(tmp_path / "copy", built.spec)
    shutil.copytree(built.path, copy.path)
    return copy


def file_of(built, accession):
    return built.file(accession, release=FOLDER[0], feature=FOLDER[1], organism=FOLDER[2])


def test_a_file_that_is_gone_stays_in_the_index_and_is_named(tmp_path, damaged, joined):
    damage_sample(file_of(damaged, "SRX1009491"), "missing")
    report, table = made(tmp_path, damaged)
    assert keys(table) == keys(joined)
    assert any("1 of 10 samples have no file (SRX1009491.h5ad)" in note for note in report.notes)
    gone = table[table["SRX_accession"] == "SRX1009491"]
    assert not Source.parse(gone["source"].iloc[0]).version


def test_a_file_cut_short_is_named(tmp_path, damaged):
    damage_sample(file_of(damaged, "SRX1009491"), "truncated")
    report, _ = made(tmp_path, damaged)
    assert any("SRX1009491 (truncated)" in note for note in report.notes)


def test_cells_that_a_file_lacks_get_rows_beyond_its_end(tmp_path, damaged):
    path = file_of(damaged, "SRX1009491")
    file = anndata.read_h5ad(path)
    file[1:].copy().write_h5ad(path)
    report, table = made(tmp_path, damaged)
    mine = table[table["SRX_accession"] == "SRX1009491"]
    assert (mine["row"] >= file.n_obs - 1).sum() == 1
    assert mine["row"].is_unique
    assert any("SRX1009491 (1)" in note for note in report.notes)


def test_an_obs_count_that_disagrees_is_named(tmp_path, damaged):
    path = damaged.path / FOLDER[0] / "metadata" / FOLDER[1] / FOLDER[2] / "sample_metadata.parquet"
    table = pq.read_table(path).to_pandas()
    table.loc[table["srx_accession"] == "SRX1009491", "obs_count"] += 1
    table.to_parquet(path)
    report, _ = made(tmp_path, damaged)
    assert any("another obs_count" in note and "SRX1009491" in note for note in report.notes)


# -- a bucket ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(gcs_server, built, monkeypatch):
    import gcsfs

    for name, value in gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    url = gcs_server.create_bucket("scb-index")
    filesystem = gcsfs.GCSFileSystem(token="anon", endpoint_url=gcs_server.endpoint_url)  # noqa: S106  # none
    return put_scbasecount(built, f"{url}/scbasecount", filesystem)


def test_a_bucket_gives_the_same_index_with_generations(tmp_path, built, bucket):
    _, local = made(tmp_path, built, sampling=SampleDraw(150, 3))
    index_scbasecount(ScBaseCountOptions(tmp_path / "gs.feather", root=bucket, sampling=SampleDraw(150, 3)))
    remote = pd.read_feather(tmp_path / "gs.feather")
    pd.testing.assert_frame_equal(local.drop(columns="source"), remote.drop(columns="source"))
    for text in remote["source"].unique():
        source = Source.parse(text)
        assert source.address.startswith(f"{bucket}/2026-01-12/h5ad/GeneFull_Ex50pAS/Homo_sapiens/")
        assert source.version == h5ad_remote.stat_remote(source.address).version


def test_listed_and_asked_for_one_by_one_versions_are_the_same(bucket):
    urls = [f"{bucket}/2026-01-12/h5ad/GeneFull_Ex50pAS/Homo_sapiens/{name}.h5ad" for name in ("SRX1001572", "SRX1")]
    listed, asked = (Bucket(bucket).versions(urls, n_beside) for n_beside in (2, 10_000))
    assert listed[urls[0]] == asked[urls[0]] != ""
    assert listed[urls[1]].kind == asked[urls[1]].kind == "no-such-file"


def test_a_bucket_that_bills_its_readers_names_the_option(tmp_path, monkeypatch):
    class Bills:
        def ls(self, *_, **__):
            raise ValueError("Bucket is requester pays. Set `requester_pays=True` when creating the GCSFileSystem.")

    monkeypatch.setattr("index.catalog.bucket.remote_filesystem", lambda _: Bills())
    with pytest.raises(CredentialsError) as raised:
        index_scbasecount(ScBaseCountOptions(tmp_path / "i.feather"))
    assert raised.value.kind == "requester-pays"
    assert "--billing-project" in raised.value.hint


def test_the_public_bucket_is_read_without_credentials(monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr("ingest.fetch.checked.gcs.CheckedGcs", dict)
    asked = h5ad_remote.remote_filesystem("gs://arc-institute-virtual-cell-atlas/scbasecount/x.h5ad")
    assert asked["token"] == "anon"  # noqa: S105  # gcsfs's word for none
    monkeypatch.setenv("CELL_INGEST_BILLING_PROJECT", "mine")
    asked = h5ad_remote.remote_filesystem("gs://arc-institute-virtual-cell-atlas/scbasecount/x.h5ad")
    assert asked == {"use_listings_cache": False, "requester_pays": "mine"}
