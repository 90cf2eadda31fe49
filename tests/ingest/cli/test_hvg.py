"""``hvg`` as people meet it: results, what is kept, what is refused, what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from typing import TYPE_CHECKING

import anndata
import pytest

from ingest.hvg import plot
from ingest.settings import DataSettings
from ingest.store.local import LocalStore
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.h5ad_files import write_h5ad_variant
from ingest.testing.hvg_data import varied_counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hvg")
    write_h5ad_variant(folder / "cells.h5ad", varied_counts(200, 300, seed=8))
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    make_dataset(str(folder / "dest"), index, data=DataSettings(cells_per_chunk=60))
    return folder / "dest"


@pytest.fixture
def dest(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "dest")
    return tmp_path / "dest"


@pytest.fixture
def hvg(run: Run, dest: Path) -> Run:
    return lambda *arguments: run("hvg", dest, "--pool", "serial", *arguments)


def record(dest: Path) -> dict:
    return json.loads((dest / "hvg_info.json").read_text())


@pytest.mark.plots
def test_a_table_a_record_and_a_plot(hvg: Run, dest: Path):
    code, out, err = hvg("--n-hvgs", 40)
    assert code == 0, err
    found = record(dest)
    lines = out.splitlines()
    assert lines[0] == "  40 of 300 genes by dispersion, from 200 cells"
    assert lines[2].split()[:3] == ["1", found["hvg_symbols"][0], found["hvg_names"][0]]
    assert lines[-1].split() == [f"{dest}/hvg_info.json", "hvg_analysis.png"]
    image = (dest / "hvg_analysis.png").read_bytes()
    assert struct.unpack(">II", image[16:24]) == (2000, 1450)
    assert found["plot_sha256"] == hashlib.sha256(image).hexdigest()
    assert found["dataset"]["digest"] == json.loads((dest / "_SUCCESS.json").read_text())["digest"]
    chunk = anndata.read_h5ad(dest / "chunks" / "chunk_000000.h5ad")
    assert found["hvg_names"] == chunk.var_names[found["hvg_indices"]].tolist()


@pytest.mark.plots
@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger", "seurat_v3"])
def test_every_flavour_from_the_command_line(hvg: Run, dest: Path, flavour: str):
    code, out, err = hvg("--flavor", flavour, "--n-hvgs", 30, "--batch-key", "cell_type", "--json")
    assert code == 0, err
    assert "read twice" in err
    facts = json.loads(out)
    assert {name: facts[name] for name in record(dest)} == record(dest)
    assert facts["cached"] is False
    assert facts["parameters"]["batch_key"] == "cell_type"
    assert facts["batches"] == {"B cell": 67, "T cell": 67, "neuron": 66}
    assert len(facts["hvg_names"]) == len(facts["hvg_n_batches"]) == 30


def test_the_same_again_answers_at_once(hvg: Run, dest: Path, monkeypatch: pytest.MonkeyPatch):
    first = hvg("--n-hvgs", 40)
    before = (dest / "hvg_info.json").stat().st_ino, (dest / "hvg_analysis.png").stat().st_ino
    get = LocalStore.get

    def no_chunks(store: LocalStore, key: str) -> bytes:
        assert not key.startswith("chunks/")
        return get(store, key)

    monkeypatch.setattr(LocalStore, "get", no_chunks)
    code, out, err = hvg("--n-hvgs", 40)
    assert (code, out) == first[:2]
    assert "found before" in err
    assert json.loads(hvg("--n-hvgs", 40, "--json")[1])["cached"] is True
    assert ((dest / "hvg_info.json").stat().st_ino, (dest / "hvg_analysis.png").stat().st_ino) == before


def test_other_settings_are_refused_with_what_differs(hvg: Run, dest: Path):
    hvg("--n-hvgs", 40)
    before = (dest / "hvg_info.json").read_bytes()
    code, _, err = hvg("--n-hvgs", 1500, "--min-cells-pct", 5)
    assert code == 1
    assert "n_hvgs 40 there, 1,500 here; min_cells_pct 0.1 there, 5.0 here" in err
    assert "--force replaces it" in err
    code, _, err = hvg("--flavour", "seurat", "--n-hvgs", 40)
    assert code == 1
    assert "flavour dispersion there, seurat here" in err
    assert (dest / "hvg_info.json").read_bytes() == before
    code, _, err = hvg("--flavour", "seurat", "--n-hvgs", 40, "--force")
    assert code == 0, err
    assert record(dest)["flavour"] == "seurat"


def test_other_data_is_refused(hvg: Run, dest: Path):
    hvg("--n-hvgs", 40)
    found = record(dest)
    found["dataset"]["digest"] = "0" * 64
    (dest / "hvg_info.json").write_text(json.dumps(found))
    code, _, err = hvg("--n-hvgs", 40)
    assert code == 1
    assert "computed from other data" in err


@pytest.mark.parametrize(
    "there", ["not JSON", "[]", '{"format_version": 99}', '{"format_version": 1, "parameters": 3}']
)
def test_a_record_that_is_none_of_ours_is_not_overwritten(hvg: Run, dest: Path, there: str):
    (dest / "hvg_info.json").write_text(there)
    code, _, err = hvg("--n-hvgs", 40)
    assert (code, err.count("\n")) == (1, 2), err
    assert (dest / "hvg_info.json").read_text() == there
    assert hvg("--n-hvgs", 40, "--force")[0] == 0


@pytest.mark.plots
def test_a_lost_plot_is_drawn_again(hvg: Run, dest: Path):
    hvg("--n-hvgs", 40)
    before = record(dest)
    image = (dest / "hvg_analysis.png").read_bytes()
    (dest / "hvg_analysis.png").unlink()
    assert hvg("--n-hvgs", 40)[0] == 0
    assert (dest / "hvg_analysis.png").read_bytes() == image
    (dest / "hvg_analysis.png").write_bytes(b"another's")
    assert hvg("--n-hvgs", 40)[0] == 0
    assert (dest / "hvg_analysis.png").read_bytes() == image
    assert record(dest) == before


def test_without_matplotlib_the_record_is_written(hvg: Run, dest: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)
    code, out, err = hvg("--n-hvgs", 40)
    assert code == 0
    assert "matplotlib is not installed: hvg_analysis.png is left out" in err
    assert "hvg_analysis.png" not in out
    assert not (dest / "hvg_analysis.png").exists()
    assert record(dest)["plot_sha256"] is None
    assert "found before" in hvg("--n-hvgs", 40)[2]
    monkeypatch.undo()
    assert hvg("--n-hvgs", 40)[0] == 0  # and once it is there, it draws
    assert (dest / "hvg_analysis.png").exists()


def test_another_folder(hvg: Run, dest: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()}
    code, out, _ = hvg("--n-hvgs", 40, "--output-dir", tmp_path / "elsewhere" / "hvg")
    assert code == 0
    assert f"{tmp_path}/elsewhere/hvg/hvg_info.json" in out
    assert (tmp_path / "elsewhere" / "hvg" / "hvg_analysis.png").exists()
    assert {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()} == before


def test_the_other_commands_take_no_notice(hvg: Run, run: Run, dest: Path):
    assert hvg("--n-hvgs", 40)[0] == 0
    made = (dest / "hvg_info.json").read_bytes()
    for command in (("verify", dest, "--deep", "--json"), ("status", dest), ("repair", dest, "--pool", "serial")):
        code, out, err = run(*command)
        assert code == 0, err
        if command[0] == "verify":
            facts = json.loads(out)
            assert (facts["findings"], facts["strays"]) == ([], [])
    code, out, _ = run("gc", dest, "--json")
    assert code == 0
    assert json.loads(out)["candidates"] == []
    assert run("gc", dest, "--delete", "--grace", 0)[0] == 0
    assert run("run", dest, "--pool", "serial")[0] == 0
    assert (dest / "hvg_info.json").read_bytes() == made


def test_a_damaged_chunk_is_named_and_nothing_is_written(hvg: Run, dest: Path):
    flip_bit(DamageableDataset(dest).chunk(2))
    code, out, err = hvg()
    assert (code, out) == (1, "")
    assert "chunk_000002.h5ad is damaged: it has another sha256 than its receipt says" in err
    assert f"`python -m ingest repair {dest}` makes it again" in err
    assert not (dest / "hvg_info.json").exists()


def test_an_incomplete_dataset_is_exit_code_3(hvg: Run, dest: Path):
    DamageableDataset(dest).receipt(1).unlink()
    (dest / "_SUCCESS.json").unlink()
    code, _, err = hvg()
    assert code == 3
    assert "3 of 4 chunks are there" in err
    assert "--allow-incomplete takes what there is" in err
    code, out, _ = hvg("--allow-incomplete", "--json")
    assert code == 0
    assert json.loads(out)["dataset"] == {
        "digest": json.loads(out)["dataset"]["digest"],
        "complete": False,
        "n_cells": 140,
        "n_chunks": 3,
        "n_genes": 300,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--flavour", "sueurat"), "'sueurat' is not one of"),
        (("--n-hvgs", 0), "0 is not in the range"),
        (("--target-sum", "many", "--flavour", "seurat"), "'many' is neither a number nor median"),
        (("--target-sum", "1e4"), "it belongs to seurat and cell_ranger"),
        (("--batch-key", "cel_type"), "did you mean 'cell_type'"),
        (("-d", "0", "--pool", "ray"), "at least one worker is needed"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_line(run: Run, dest: Path, arguments: tuple[object, ...], said: str):
    code, out, err = run("hvg", dest, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_folder_without_a_dataset(run: Run, tmp_path: Path):
    code, _, err = run("hvg", tmp_path / "nothing")
    assert code == 2
    assert "holds no dataset" in err


def test_somebody_else_writes_another_record_meanwhile(hvg: Run, dest: Path, monkeypatch: pytest.MonkeyPatch):
    put_new = LocalStore.put_new

    def overtaken(store: LocalStore, key: str, data: bytes) -> object:
        if key == "hvg_info.json" and not (dest / key).exists():
            (dest / key).write_text("{}")
        return put_new(store, key, data)

    monkeypatch.setattr(LocalStore, "put_new", overtaken)
    code, _, err = hvg()
    assert code == 1
    assert "exists with other content" in err
    assert (dest / "hvg_info.json").read_text() == "{}"
