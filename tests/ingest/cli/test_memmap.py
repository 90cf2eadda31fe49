"""``memmap`` and ``convert_h5ad_to_scdl`` as people meet them: what is said, what is made, what is refused."""

from __future__ import annotations

import json
import warnings
from importlib import metadata
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest

from ingest.cli import convert_scdl
from ingest.cli.main import main
from ingest.load.memmap import SingleCellMemMapDataset, create_archive
from ingest.load.memmap.convert import plan as plan_module
from ingest.settings import DataSettings
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def dest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 cells x 30 genes in 4 chunks."""
    folder = tmp_path_factory.mktemp("memmap")
    write_h5ad_variant(folder / "cells.h5ad", sample_counts(60, 30, seed=5), obs=sample_obs(60))
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    make_dataset(str(folder / "dest"), index, data=DataSettings(cells_per_chunk=17))
    return folder / "dest"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, program: Callable[[list[str]], None] = main) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            program([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def memmap(run: Run) -> Run:
    return lambda *arguments: run("memmap", *arguments, "--pool", "serial")


@pytest.fixture
def convert(run: Run) -> Run:
    return lambda *arguments: run(*arguments, program=convert_scdl.main)


def write_raw(path: Path, *, seed: int = 0, n_genes: int = 10, scale: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = sample_counts(20, n_genes, seed=seed) * np.float32(scale)
    cells = anndata.AnnData(counts, obs=sample_obs(20), var=pd.DataFrame(index=[f"g{n}" for n in range(n_genes)]))
    cells.raw = cells.copy()
    cells.X = np.log1p(counts)
    cells.write_h5ad(path)
    return path


def test_what_is_said_and_made(memmap: Run, dest: Path, tmp_path: Path):
    code, out, err = memmap(dest, "-o", "lung.scdl")
    assert code == 0, err
    nnz = sample_counts(60, 30, seed=5).nnz
    first, where, then = out.splitlines()
    assert first.startswith(f"  cells 60   genes 30   entries {nnz:,}   ")
    assert where == f"  {tmp_path / 'lung.scdl'}"
    assert then.startswith("  next: from ingest.load.memmap import SingleCellMemMapDataset; cells = ")
    lines = err.splitlines()
    assert lines[0] == f"Sources  60 cells x 30 genes, {nnz:,} entries, of {dest}"
    assert lines[1].startswith("Plan     1 part, ")
    assert lines[1].endswith("values float32, columns uint8, row pointers uint16    lung.scdl")
    assert lines[2] == "Features of genes and cells, header"
    names: dict[str, SingleCellMemMapDataset] = {}
    exec(then.removeprefix("  next: "), names)  # noqa: S102 # the line that people are given
    assert names["cells"].shape() == (60, [30])
    assert len(list(tmp_path.iterdir())) == 1


def test_again_it_says_that_it_is_there(memmap: Run, dest: Path):
    first = memmap(dest, "-o", "lung.scdl")
    code, out, err = memmap(dest, "-o", "lung.scdl")
    assert code == 0
    assert "Kept     made before of the same sources and settings" in err
    assert out.splitlines()[1:] == first[1].splitlines()[1:]
    facts = json.loads(memmap(dest, "-o", "lung.scdl", "--json")[1])
    assert (facts["was_there"], facts["finished"], facts["cells_this_run"]) == (True, True, 0)


def test_facts_as_json(memmap: Run, dest: Path, tmp_path: Path):
    code, out, _ = memmap(dest, "-o", "lung.scdl", "--json", "--data-dtype", "auto")
    facts = json.loads(out)
    assert (code, facts["cells"], facts["genes"], facts["was_there"], facts["lossy"]) == (0, 60, 30, False, [])
    assert facts["dtypes"] == {"data.npy": "uint8", "row_ptr.npy": "uint16", "col_ptr.npy": "uint8"}
    assert facts["bytes"] == sum((tmp_path / "lung.scdl" / name).stat().st_size for name in facts["dtypes"])
    assert facts["sources"] == [{"kind": "chunks", "address": str(dest), "cells": 60, "genes": 30}]


def test_a_dry_run_writes_nothing(memmap: Run, dest: Path, tmp_path: Path):
    code, out, err = memmap(dest, "-o", "lung.scdl", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["cells"] == 60
    assert "Dry run  no counts were read, nothing was written" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.h5ad"], 2, "error: nowhere.h5ad: there is no such file, folder or dataset"),
        (["*.h5ad"], 2, "error: *.h5ad: there is no such file"),
        (["."], 2, "error: . is no dataset that `run` wrote, and holds no h5ad files"),
        (["DEST", "DEST"], 2, "is named twice: its cells would stand there twice"),
        (["DEST", "--data-dtype", "int8"], 2, "'int8' is not one of 'auto', 'uint8'"),
        (["DEST", "-d", "0"], 2, "error: -d 0: at least one worker is needed"),
        (["DEST", "--neighbours", "x"], 2, "No such option '--neighbours'"),
        ([], 2, "Missing argument 'DEST|H5AD...'"),
        (["s3://user:secret@bucket/x"], 2, "a user name, password or signature"),
    ],
)
def test_what_is_refused_before_anything_is_done(run: Run, dest: Path, tmp_path: Path, arguments, code, said):
    arguments = [str(dest) if one == "DEST" else one for one in arguments]
    got, out, err = run("memmap", *arguments, "-o", "made.scdl")
    assert (got, out) == (code, "")
    assert said.partition("user name")[0] in err
    assert "secret@" not in err
    assert len(err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_raw_says_which_and_what_to_do(memmap: Run, tmp_path: Path):
    write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(9, 5))
    code, _, err = memmap("a.h5ad", "-o", "made.scdl")
    assert code == 1
    assert err.splitlines() == [
        "error: Error in processing file a.h5ad: This file does not have raw count data; "
        "set use_X_not_raw=True to use normalized counts instead.",
        "       --use-X-not-raw takes X",
    ]
    assert memmap("a.h5ad", "-o", "made.scdl", "--use-X-not-raw")[0] == 0


def test_a_value_that_is_not_held_is_named_unless_it_is_allowed(memmap: Run, tmp_path: Path):
    write_raw(tmp_path / "a.h5ad", scale=0.25)
    code, _, err = memmap("a.h5ad", "-o", "made.scdl", "--data-dtype", "uint8")
    assert code == 1
    assert "error: a.h5ad: row " in err
    assert "which uint8 changes by 0.75" in err
    assert "--allow-lossy stores" in err
    code, _, err = memmap("a.h5ad", "-o", "made.scdl", "--data-dtype", "uint8", "--allow-lossy")
    assert code == 0
    assert "warning: a.h5ad: Full Dataset: Downcasted data values for 'data.npy' are not close" in err
    assert "Max abs diff: 0.75 (row " in err


def test_a_damaged_chunk_is_named(memmap: Run, dest: Path, tmp_path: Path):
    import shutil

    shutil.copytree(dest, tmp_path / "dest")
    flip_bit(DamageableDataset(tmp_path / "dest").chunk(2))
    code, _, err = memmap("dest", "-o", "made.scdl")
    assert code == 1
    assert "chunk_000002.h5ad is damaged" in err
    assert "repair" in err
    assert not (tmp_path / "made.scdl").exists()


def test_another_plan_and_what_differs(memmap: Run, dest: Path, tmp_path: Path):
    assert memmap(dest, "-o", "made.scdl")[0] == 0
    code, _, err = memmap(dest, "-o", "made.scdl", "--data-dtype", "uint8")
    assert code == 2
    assert "made.scdl is there already, of another conversion: data type float32 there, uint8 here" in err
    (tmp_path / "mine").mkdir()
    assert memmap(dest, "-o", "mine")[0] == 2


def test_an_interrupt_finishes_the_parts_in_hand(memmap: Run, dest: Path, tmp_path: Path, monkeypatch):
    """As a Ctrl-C in the middle of it."""
    from ingest.interrupt import Interrupt
    from ingest.load.memmap.convert.chunks import ChunkRows

    real, written = ChunkRows.write, []
    monkeypatch.setattr(plan_module.join_cuts, "__defaults__", (1,))
    asked: list[Interrupt] = []
    entered = Interrupt.__enter__
    monkeypatch.setattr(Interrupt, "__enter__", lambda self: (asked.append(self), entered(self))[1])

    def write(self, place, into, **options):
        if len(written) == 2:
            asked[-1].requested = True
        written.append(place)
        return real(self, place, into, **options)

    monkeypatch.setattr(ChunkRows, "write", write)
    code, out, err = memmap(dest, "-o", "made.scdl")
    assert (code, out) == (130, "")
    done = len(written)
    assert f"stopped: {done} of 4 parts done; run the same command to go on" in err
    assert not (tmp_path / "made.scdl").exists()
    code, _, err = memmap(dest, "-o", "made.scdl")
    assert code == 0
    assert f"Resume   {done} of 4 parts are there" in err
    assert len(written) == 4


def test_folders_patterns_and_files_in_the_order_given(memmap: Run, tmp_path: Path):
    for name in ("b/2", "b/1", "a", "c"):
        write_raw(tmp_path / f"{name}.h5ad", seed=ord(name[-1]))
    code, out, err = memmap("c.h5ad", "b", "a*.h5ad", "-o", "made.scdl", "--json")
    assert code == 0, err
    found = [one["address"].removeprefix(f"file://{tmp_path}/") for one in json.loads(out)["sources"]]
    assert found == ["c.h5ad", "b/1.h5ad", "b/2.h5ad", "a.h5ad"]


def test_neighbours_in_the_line_that_opens_it(memmap: Run, tmp_path: Path):
    path = write_raw(tmp_path / "a.h5ad")
    cells = anndata.read_h5ad(path)
    cells.obsp["knn"] = cells.raw.X @ cells.raw.X.T
    cells.write_h5ad(path)
    code, out, err = memmap("a.h5ad", "-o", "made.scdl", "--neighbors", "knn")
    assert code == 0, err
    names: dict[str, SingleCellMemMapDataset] = {}
    exec(out.splitlines()[-1].removeprefix("  next: "), names)  # noqa: S102 # the line that people are given
    assert names["cells"].get_neighbor_stats()["total_connections"] == cells.obsp["knn"].nnz
    code, _, err = memmap("a.h5ad", "-o", "other.scdl", "--neighbors", "knm")
    assert code == 2
    assert "error: no source has obsp['knm']" in err
    assert "obsp has knn" in err
    assert not (tmp_path / "other.scdl").exists()


def test_help_ends_with_two_examples(run: Run):
    code, out, _ = run("memmap", "--help")
    assert code == 0
    assert out.count("  python -m ingest memmap ") == 2


# -- bionemo-scdl's script ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("underscores", [False, True])
@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.sampled(3)
def test_the_script_makes_what_bionemo_scdls_makes(convert: Run, tmp_path: Path, monkeypatch, underscores, processes):
    for name in ("b", "a/z", "a"):
        write_raw(tmp_path / "in" / f"{name}.h5ad", seed=ord(name[-1]))
    flags = {
        "--data-path": "in",
        "--save-path": "ours",
        "--num-workers": "2",
        "--data-dtype": "uint16",
        "--paginated-load-cutoff": "10_000",
        "--load-block-row-size": "1_000_000",
    }
    spelled = {name.replace("-", "_").replace("__", "--", 1) if underscores else name: flags[name] for name in flags}
    words = [word for pair in spelled.items() for word in pair]
    code, out, err = convert(*words, *(["--use-mp"] if processes else []))
    assert code == 0, err
    assert out.splitlines()[0].startswith("  cells 60   genes 10")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bionemo.scdl.scripts import convert_h5ad_to_scdl as theirs

        words = ["--data-path", "in", "--save-path", "theirs", "--num-workers", "2", "--data-dtype", "uint16"]
        monkeypatch.setattr("sys.argv", ["convert", *words])
        theirs.main()
    for name in ("data.npy", "col_ptr.npy", "row_ptr.npy", "header.sch"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_the_script_takes_x_and_warns_where_values_change(convert: Run, tmp_path: Path):
    path = write_raw(tmp_path / "in" / "a.h5ad")
    x = anndata.read_h5ad(path).X
    code, _, err = convert("--data-path", "in", "--save-path", "ours", "--use-X-not-raw", "--data-dtype", "uint8")
    assert code == 0
    worst = np.abs(x.data.astype("uint8") - x.data).max()
    assert (
        f"Full Dataset: Downcasted data values for 'data.npy' are not close to original values. Max abs diff: {worst}"
        in err
    )


def test_the_script_is_installed_by_the_name_of_bionemo_scdls():
    [script] = (one for one in metadata.distribution("cell-ingest").entry_points if one.name == "convert_h5ad_to_scdl")
    assert script.load() is convert_scdl.main


def test_what_the_script_refuses(convert: Run, tmp_path: Path):
    (tmp_path / "in").mkdir()
    code, out, err = convert("--data-path", "in", "--save-path", "ours")
    assert (code, out, err) == (2, "", "error: There are no h5ad files in in.\n")
    write_h5ad_variant(tmp_path / "in" / "x.h5ad", sample_counts(9, 5))
    code, _, err = convert("--data-path", "in", "--save-path", "ours")
    assert code == 1
    assert "error: Error in processing file in/x.h5ad: This file does not have raw count data" in err
    code, _, err = convert("--data-path", "in", "--save-path", "ours", "--data-dtype", "int8", "--use-X-not-raw")
    assert code == 2
    assert "Invalid data_dtype 'int8'. Must be one of: uint8, uint16, uint32, uint64, float16, float32, float64" in err
    empty = write_raw(tmp_path / "in" / "y.h5ad", scale=0)
    cells = anndata.read_h5ad(empty)
    cells.X.eliminate_zeros()
    cells.write_h5ad(empty)
    code, _, err = convert("--data-path", "in", "--save-path", "ours", "--use-X-not-raw")
    assert code == 1
    assert "Error in processing file in/y.h5ad: n_elements is set to 0. It must be positive to create CSR" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_the_call_is_a_name_of_the_package(dest: Path, tmp_path: Path):
    path = create_archive(dest, tmp_path / "made")
    assert SingleCellMemMapDataset(path).number_of_rows() == 60
