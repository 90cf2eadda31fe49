"""``qc`` as people meet it: results, what is kept, what is refused, what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ingest.qc import plot
from ingest.settings import DataSettings
from ingest.store.local import LocalStore
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.qc_data import write_qc_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

FILES = ["qc.json", "qc.png", "qc_cells.feather", "qc_genes.feather", "qc_genes.txt", "qc_index.feather"]
RULES = ("--min-genes", 30, "--max-mito-pct", 12, "--mad", 3, "--min-cells", 5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qc")
    write_qc_source(folder / "cells.h5ad", seed=3)
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    make_dataset(str(folder / "dest"), index, data=DataSettings(cells_per_chunk=60))
    return folder / "dest"


@pytest.fixture
def dest(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "dest")
    return tmp_path / "dest"


@pytest.fixture
def qc(run: Run, dest: Path) -> Run:
    return lambda *arguments: run("qc", dest, "--pool", "serial", *arguments)


def record(dest: Path) -> dict:
    return json.loads((dest / "qc.json").read_text())


@pytest.mark.plots
def test_a_table_a_record_a_plot_and_the_way_on(qc: Run, run: Run, dest: Path, tmp_path: Path):
    code, out, err = qc(*RULES)
    assert code == 0, err
    found = record(dest)
    kept, genes = found["cells"]["kept"], found["genes"]["kept"]
    lines = out.splitlines()
    assert lines[0] == f"  {kept:,} of 240 cells stay, {genes:,} of 160 genes"
    rule = next(line.split() for line in lines if line.split()[0] == "min_genes")
    drops = found["dropped_by_rule"]["min_genes"]
    assert rule == ["min_genes", str(drops["breaking"]), str(drops["first"]), str(drops["alone"]), "30"]
    assert lines[-1].split() == [f"{dest}/qc.json", "qc.png"]
    image = (dest / "qc.png").read_bytes()
    assert struct.unpack(">II", image[16:24]) == (2000, 1450)
    assert found["sha256"] == {name: hashlib.sha256((dest / name).read_bytes()).hexdigest() for name in found["sha256"]}
    assert sorted(["qc.json", *found["sha256"]]) == FILES
    words = err.splitlines()[-1].split()
    assert words[:5] == ["next", "python", "-m", "ingest", "run"]
    code, _, err = run("run", tmp_path / "second", *words[6:], "--pool", "serial", "-c", 50)
    assert code == 0, err
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert (config["total_cells_downloaded"], config["n_genes"]) == (kept, genes)


@pytest.mark.plots
def test_without_a_rule_all_stay_and_are_measured(qc: Run, dest: Path):
    code, out, err = qc("--json")
    assert code == 0, err
    facts = json.loads(out)
    assert {name: facts[name] for name in record(dest)} == record(dest)
    assert (facts["cells"]["kept"], facts["rules"], facts["dropped_by_rule"]) == (240, {}, {})
    assert "next" not in err


def test_the_same_again_answers_at_once(qc: Run, dest: Path, monkeypatch: pytest.MonkeyPatch):
    first = qc(*RULES)
    before = {name: (dest / name).stat().st_ino for name in FILES}
    get = LocalStore.get

    def no_chunks(store: LocalStore, key: str) -> bytes:
        assert not key.startswith("chunks/")
        return get(store, key)

    monkeypatch.setattr(LocalStore, "get", no_chunks)
    code, out, err = qc(*RULES)
    assert (code, out) == first[:2]
    assert "found before" in err
    assert json.loads(qc(*RULES, "--json")[1])["cached"] is True
    assert {name: (dest / name).stat().st_ino for name in FILES} == before


def test_other_rules_are_refused_with_what_differs(qc: Run, dest: Path):
    qc(*RULES)
    before = (dest / "qc.json").read_bytes()
    code, _, err = qc("--min-genes", 40)
    assert code == 1
    assert "min_genes 30 there, 40 here; max_mito_pct 12 there, none here" in err
    assert "--force replaces it" in err
    assert (dest / "qc.json").read_bytes() == before
    code, _, err = qc("--min-genes", 40, "--force")
    assert code == 0, err
    assert record(dest)["rules"] == {"min_genes": 40}
    assert len(pd.read_feather(dest / "qc_index.feather")) == record(dest)["cells"]["kept"]
    assert (dest / "qc_genes.txt").read_text().count("ENSG") == 160  # none of the earlier result is left beside it


def test_other_data_and_foreign_records_are_refused(qc: Run, dest: Path):
    qc(*RULES)
    found = record(dest)
    found["dataset"]["digest"] = "0" * 64
    for there in (json.dumps(found), "not JSON", '{"format_version": 99}', '{"format_version": 1, "rules": 3}'):
        (dest / "qc.json").write_text(there)
        code, _, err = qc(*RULES)
        assert (code, err.count("\n")) == (1, 2), err
        assert (dest / "qc.json").read_text() == there


@pytest.mark.parametrize(
    "name", [*(name for name in FILES[1:] if name != "qc.png"), pytest.param("qc.png", marks=pytest.mark.plots)]
)
@pytest.mark.sampled(2)
def test_a_lost_or_foreign_file_is_made_again(qc: Run, dest: Path, name: str):
    qc(*RULES)
    before = {name: (dest / name).read_bytes() for name in FILES}
    (dest / name).unlink()
    assert qc(*RULES)[0] == 0
    assert {name: (dest / name).read_bytes() for name in FILES} == before
    (dest / name).write_bytes(b"another's")
    assert qc(*RULES)[0] == 0
    assert {name: (dest / name).read_bytes() for name in FILES} == before


def test_without_matplotlib_the_rest_is_written(qc: Run, dest: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)
    code, out, err = qc(*RULES)
    assert code == 0
    assert "matplotlib is not installed: qc.png is left out" in err
    assert "qc.png" not in out
    assert not (dest / "qc.png").exists()
    assert "found before" in qc(*RULES)[2]


def test_another_folder(qc: Run, dest: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()}
    code, out, _ = qc(*RULES, "--output-dir", tmp_path / "elsewhere" / "qc")
    assert code == 0
    assert f"{tmp_path}/elsewhere/qc/qc.json" in out
    assert sorted(path.name for path in (tmp_path / "elsewhere" / "qc").iterdir()) == FILES
    assert {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()} == before


def test_the_other_commands_take_no_notice(qc: Run, run: Run, dest: Path):
    assert qc(*RULES)[0] == 0
    made = {name: (dest / name).read_bytes() for name in FILES}
    for command in (("verify", dest, "--deep", "--json"), ("status", dest), ("repair", dest, "--pool", "serial")):
        code, out, err = run(*command)
        assert code == 0, err
        if command[0] == "verify":
            facts = json.loads(out)
            assert (facts["findings"], facts["strays"]) == ([], [])
    assert run("gc", dest, "--delete", "--grace", 0)[0] == 0
    assert run("run", dest, "--pool", "serial")[0] == 0
    assert {name: (dest / name).read_bytes() for name in FILES} == made


@pytest.mark.plots
def test_no_cell_stays(qc: Run, dest: Path):
    code, out, err = qc("--min-counts", "1e9")
    assert code == 0
    assert "  0 of 240 cells stay" in out
    assert "no cell stays: the rules leave nothing for a second run" in err
    assert (dest / "qc.png").exists()


def test_a_damaged_chunk_is_named_and_nothing_is_written(qc: Run, dest: Path):
    flip_bit(DamageableDataset(dest).chunk(2))
    code, out, err = qc(*RULES)
    assert (code, out) == (1, "")
    assert "chunk_000002.h5ad is damaged: it has another sha256 than its receipt says" in err
    assert not any((dest / name).exists() for name in FILES)


def test_an_incomplete_dataset_is_exit_code_3(qc: Run, dest: Path):
    DamageableDataset(dest).receipt(1).unlink()
    (dest / "_SUCCESS.json").unlink()
    code, _, err = qc(*RULES)
    assert code == 3
    assert "3 of 4 chunks are there" in err
    code, out, _ = qc(*RULES, "--allow-incomplete", "--json")
    assert code == 0
    assert json.loads(out)["cells"]["n"] == 180


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--min-gene", 3), "Did you mean"),
        (("--min-genes", "few"), "'few' is not a valid integer"),
        (("--min-genes", 50, "--max-genes", 40), "min_genes 50 is above max_genes 40"),
        (("--max-mito-pct", 120), "per cent go from 0 to 100"),
        (("--leave-out-column", "cel_type"), "did you mean 'cell_type'"),
        (("--leave-out", "@nowhere.txt"), "cannot read nowhere.txt"),
        (("-d", "0", "--pool", "ray"), "at least one worker is needed"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_line(run: Run, dest: Path, arguments: tuple[object, ...], said: str):
    code, out, err = run("qc", dest, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
