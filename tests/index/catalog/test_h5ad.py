"""The h5ad catalogue: what plain anndata reads of obs, from files, globs, S3, GCS and HTTP."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import boto3
import fsspec
import numpy as np
import pandas as pd
import pytest

from index.build import H5adOptions, index_h5ad
from index.catalog.h5ad import H5adCells, find_files
from index.sample import Sampling
from ingest.errors import ConfigError, EmptySelectionError, IngestError, SourceChangedError, SourceError
from ingest.source import Source
from ingest.testing.h5ad_files import hostile_files, sample_counts, sample_obs, write_h5ad_variant

pytestmark = [
    # gcsfs and s3fs leave their sessions to the collector when the interpreter's loop is theirs.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _write(path: Path, obs: pd.DataFrame | None = None, n_cells: int = 30, seed: int = 0, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    obs = sample_obs(n_cells, seed=seed) if obs is None else obs
    return write_h5ad_variant(path, sample_counts(len(obs), 5, seed=seed), obs=obs, **how)


def _index(tmp_path: Path, *paths: object, **options):
    report = index_h5ad(H5adOptions(tmp_path / "index.feather", tuple(map(str, paths)), **options))
    return report, pd.read_feather(report.path)


def _objects(column: pd.Series) -> list[object]:
    return column.astype(object).where(column.notna(), None).tolist()


@pytest.mark.parametrize("legacy", [None, "0.7", "0.6"])
def test_every_obs_column_as_anndata_reads_it(tmp_path, legacy):
    path = _write(tmp_path / "a b#c.h5ad", n_cells=70_000, legacy=legacy)
    report, result = _index(tmp_path, path)
    obs = anndata.read_h5ad(path).obs if legacy is None else sample_obs(70_000)
    assert list(result.columns) == ["source", "soma_joinid", "row", *obs.columns]
    for name in obs.columns:
        assert _objects(result[name]) == _objects(obs[name])
    assert result["row"].tolist() == list(range(70_000))
    assert (result["soma_joinid"] == -1).all()
    (text,) = set(result["source"])
    assert Source.parse(text).path == path
    assert Source.parse(text).version
    assert (report.cells, report.notes) == (70_000, ())


def test_files_and_globs_together_each_file_once(tmp_path):
    for name in ("data/b.h5ad", "data/a.h5ad", "data/deep/c.h5ad", "z[1].h5ad"):
        _write(tmp_path / name, seed=len(name))
    found = find_files([f"{tmp_path}/data/*.h5ad", f"{tmp_path}/data/a.h5ad", f"{tmp_path}/z[1].h5ad"])
    assert [source.path.name for source in found] == ["a.h5ad", "b.h5ad", "z[1].h5ad"]
    found = find_files([f"{tmp_path}/data/**/*.h5ad"])
    assert [source.path.name for source in found] == ["a.h5ad", "b.h5ad", "c.h5ad"]
    _, result = _index(tmp_path, tmp_path / "data" / "*.h5ad")
    assert result["row"].tolist() == [*range(30), *range(30)]
    assert result["source"].nunique() == 2


def test_columns_that_differ_are_joined_and_it_is_said(tmp_path):
    first = pd.DataFrame(
        {"age": [1, 2], "score": [1, 2], "batch": [1, 2], "only": ["x", "y"], "flag": [True, False]}, index=["a", "b"]
    )
    second = pd.DataFrame({"age": [0.5], "score": [7], "batch": ["one"], "flag": pd.Categorical(["no"])}, index=["a"])
    paths = _write(tmp_path / "1.h5ad", first), _write(tmp_path / "2.h5ad", second)
    report, result = _index(tmp_path, *paths)
    assert result["age"].tolist() == [1.0, 2.0, 0.5]
    assert result["score"].tolist() == [1, 2, 7]
    assert _objects(result["batch"]) == ["1", "2", "one"]
    assert _objects(result["only"]) == ["x", "y", None]
    assert _objects(result["flag"]) == ["True", "False", "no"]
    assert report.notes == (
        "column 'batch' is int64, text in different files: written as text",
        "column 'flag' is bool, text in different files: written as text",
        "1 column is not in all 2 files (only): empty there",
    )
    report, _ = _index(tmp_path, *paths, columns=("age",))
    assert report.notes == ()


def test_columns_named_as_coordinates_are_renamed_and_it_is_said(tmp_path):
    obs = pd.DataFrame({"source": ["s"], "row": [9], "obs_row": [8], "soma_joinid": [7]}, index=["a"])
    report, result = _index(tmp_path, _write(tmp_path / "a.h5ad", obs))
    assert result.iloc[0, 1:].tolist() == [-1, 0, "s", 9, 8, 7]
    assert list(result.columns[3:]) == ["obs_source", "obs_obs_row", "obs_row", "obs_soma_joinid"]
    assert len(report.notes) == 3


def test_filters_columns_and_samples(tmp_path):
    for seed in range(3):
        _write(tmp_path / f"{seed}.h5ad", n_cells=400, seed=seed)
    obs = pd.concat([sample_obs(400, seed=seed) for seed in range(3)])
    kept = "cell_type == 'B cell' and not doublet == True and pct_mito < 0.5"
    _, result = _index(tmp_path, tmp_path / "*.h5ad", value_filter=kept, columns=("note",))
    expected = obs[(obs["cell_type"] == "B cell") & ~obs["doublet"] & (obs["pct_mito"] < 0.5)]
    assert list(result.columns) == ["source", "soma_joinid", "row", "note"]
    assert _objects(result["note"]) == _objects(expected["note"])
    sampling = Sampling.of(90, seed=1, stratify="cell_type:equal")
    _, result = _index(tmp_path, tmp_path / "*.h5ad", columns=("note",), sampling=sampling)
    assert result["cell_type"].value_counts().tolist() == [30, 30, 30]
    assert result.duplicated(["source", "row"]).sum() == 0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"columns": ("cel_type",)},
            "unknown-column",
            "no column 'cel_type' in the obs of a.h5ad; did you mean 'cell_type'?",
        ),
        (
            {"value_filter": "cel_type == 'x'"},
            "unknown-column",
            "no column 'cel_type' in the obs of a.h5ad; did you mean 'cell_type'?",
        ),
        (
            {"value_filter": "cell_type == 'B cel'"},
            "empty-selection",
            "has cell_type == 'B cel'; did you mean 'B cell'",
        ),
        ({"value_filter": "pct_mito > 2"}, "empty-selection", "no cell in the obs of a.h5ad matches pct_mito > 2"),
    ],
)
def test_requests_that_do_not_work_out(tmp_path, options, kind, message):
    path = _write(tmp_path / "a.h5ad")
    with pytest.raises(ConfigError) as caught:
        _index(tmp_path, path, **options)
    assert caught.value.kind == kind
    assert message in str(caught.value)
    assert not (tmp_path / "index.feather").exists()


def test_files_that_are_not_there_or_no_h5ad(tmp_path):
    (tmp_path / "text.h5ad").write_text("no HDF5")
    for path, error, message in (
        (tmp_path / "no.h5ad", ConfigError, "no such file"),
        (tmp_path / "*.loom", ConfigError, "no such file"),
        (tmp_path, ConfigError, "is a folder"),
        (f"file://{tmp_path}/no.h5ad", SourceError, "no such file"),
        (tmp_path / "text.h5ad", SourceError, "text.h5ad"),
        ("ftp2://host/a.h5ad", ConfigError, "no reader for ftp2"),
        ("https://user:pw@host/a.h5ad", ConfigError, "credentials"),
    ):
        with pytest.raises(error, match=message):
            _index(tmp_path, path)
    with pytest.raises(ConfigError, match="no h5ad file is named"):
        find_files([])


def test_hostile_files_end_in_one_typed_line(tmp_path):
    refused = {}
    for name, hostile in hostile_files(tmp_path, bomb_bytes=1 << 26).items():
        try:
            _index(tmp_path, hostile.path)
        except IngestError as error:
            refused[name] = str(error)
    # Faults of the matrix alone are the fetcher's to find; links and storage elsewhere are refused before obs is read.
    assert refused.keys() >= {
        *("external-link", "external-storage", "virtual-dataset", "link-cycle", "no-obs", "label-code-beyond"),
        *("not-utf8-label", "bomb-column", "truncated", "empty", "text", "html", "zeroed-header"),
    }
    assert not [line for line in refused.values() if "\n" in line]


def test_a_file_without_cells(tmp_path):
    path = _write(tmp_path / "a.h5ad", sample_obs(3).iloc[:0])
    with pytest.raises(EmptySelectionError, match=r"no cells in the obs of a\.h5ad"):
        _index(tmp_path, path)


def test_a_file_that_changes_between_two_passes_is_noticed(tmp_path):
    path = _write(tmp_path / "a.h5ad")
    cells = H5adCells(find_files([str(path)]))
    _write(path, n_cells=31)
    with pytest.raises(SourceChangedError):
        list(cells.batches())


def test_memory_is_bounded_by_batches(tmp_path):
    cells = H5adCells(find_files([str(_write(tmp_path / "a.h5ad", n_cells=150_000))]))
    assert [batch.num_rows for batch in cells.batches(["pct_mito"])] == [65_536, 65_536, 150_000 - 2 * 65_536]
    assert cells.total == 150_000


def _compare_with_local(tmp_path: Path, patterns: list[str], local: list[Path]) -> None:
    _, there = _index(tmp_path, *patterns)
    _, here = _index(tmp_path, *local)
    pd.testing.assert_frame_equal(there.drop(columns="source"), here.drop(columns="source"))
    assert [Source.parse(text).label for text in there["source"].cat.categories] == ["a", "b"]
    assert all(Source.parse(text).version for text in there["source"].cat.categories)


def test_files_on_s3(tmp_path, s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3_server.create_bucket("h5ad-index").removeprefix("s3://")
    local = [_write(tmp_path / f"{name}.h5ad", seed=ord(name)) for name in "ab"]
    for path in local:
        boto3.client("s3").upload_file(str(path), bucket, f"in/{path.name}")
    _compare_with_local(tmp_path, [f"s3://{bucket}/in/*.h5ad"], local)
    _compare_with_local(tmp_path, [f"s3://{bucket}/in/a.h5ad", f"s3://{bucket}/in/b.h5ad"], local)
    with pytest.raises(ConfigError, match="no such file"):
        find_files([f"s3://{bucket}/out/*.h5ad"])


def test_files_on_gcs(tmp_path, gcs_server, monkeypatch):
    for name, value in gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = gcs_server.create_bucket("h5ad-index").removeprefix("gs://")
    local = [_write(tmp_path / f"{name}.h5ad", seed=ord(name)) for name in "ab"]
    store = fsspec.filesystem("gs", token="anon", endpoint_url=gcs_server.endpoint_url, skip_instance_cache=True)  # noqa: S106  # gcsfs's word for none
    for path in local:
        store.pipe_file(f"{bucket}/in/{path.name}", path.read_bytes())
    _compare_with_local(tmp_path, [f"gs://{bucket}/in/*.h5ad"], local)


class _Ranges(SimpleHTTPRequestHandler):
    """Static files with single ranges, as object stores serve them over HTTP."""

    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def do_GET(self):
        wanted = self.headers.get("Range")
        if wanted is None:
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = wanted.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last or len(data) - 1) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None


def test_files_over_http(tmp_path):
    local = [_write(tmp_path / "in" / f"{name}.h5ad", seed=ord(name)) for name in "ab"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}/in"
        _compare_with_local(tmp_path, [f"{base}/a.h5ad", f"{base}/b.h5ad"], local)
        _compare_with_local(tmp_path, [f"{base}/*.h5ad"], local)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_every_real_file_as_anndata_reads_it(tmp_path):
    folder = Path(__file__).parents[3] / ".." / "shared" / "data"
    if not folder.exists():
        pytest.skip("no ../shared/data beside this checkout")
    for path in sorted(folder.glob("*.h5ad")):
        _, result = _index(tmp_path, path)
        obs = anndata.read_h5ad(path).obs
        assert len(result) == len(obs)
        for name in obs.columns:
            mine = result[f"obs_{name}" if name == "source" else name]
            if obs[name].dtype.kind == "f":
                np.testing.assert_array_equal(mine.to_numpy(obs[name].dtype, na_value=np.nan), obs[name].to_numpy())
            else:
                assert _objects(mine) == _objects(obs[name])
