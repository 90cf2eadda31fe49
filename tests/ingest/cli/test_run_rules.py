"""``run`` with quality rules: in the plan where the index answers, else in two steps; from flags and from files."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest

from ingest.cli import judged
from ingest.cli.config_file import read_settings, without_comments
from ingest.errors import ConfigError
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.datasets import write_census_index, write_h5ad_index
from ingest.testing.qc_data import write_qc_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

SEED = """{
  "chunk_size": 50,                 // Cells per chunk
  "compression_level": 4,           // HDF5 compression
  "quality_control": {"min_genes": 30, "max_mito_pct": 12, "leave_out_column": "is_doublet"},   // QC parameters
  "gene_processing": {"min_cells": 5},     // Gene filtering
  "subset_to_control_cells": false  // Control-only mode
}
"""


@pytest.fixture(scope="module")
def h5ad(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    made = write_qc_source(folder / "cells.h5ad", seed=3)
    path = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    table = pd.read_feather(path)
    for name in ("is_doublet", "perturbation"):
        table[name] = made.obs[name].to_numpy()
    table.to_feather(path)
    return path


@pytest.fixture(scope="module")
def census(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("census")
    built = build_census(folder / "census", CensusSpec(n_cells=500, n_genes=300, mean_nnz_per_cell=60, seed=2))
    return write_census_index(folder / "index.feather", built)


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CELL_INGEST_POOL", "serial")
    return run


def wanted(index: Path) -> anndata.AnnData:
    """What the seed's configuration above leaves, by anndata alone."""
    cells = anndata.read_h5ad(index.parent / "cells.h5ad")
    counts, mito = cells.X.toarray(), cells.var["feature_name"].str.startswith("MT-").to_numpy()
    with np.errstate(invalid="ignore"):
        share = 100 * counts[:, mito].sum(axis=1) / counts.sum(axis=1)
    kept = ((counts > 0).sum(axis=1) >= 30) & ~(share > 12) & ~cells.obs["is_doublet"].to_numpy()
    return cells[kept, (counts[kept] > 0).sum(axis=0) >= 5]


def same(dest: Path, cells: anndata.AnnData) -> None:
    found = anndata.concat([anndata.read_h5ad(path) for path in sorted((dest / "chunks").iterdir())])
    assert found.obs_names.str.removeprefix("cells:").tolist() == cells.obs_names.tolist()
    assert found.var_names.tolist() == cells.var_names.tolist()
    assert (found.X != cells.X).nnz == 0


def test_the_seeds_configuration_ends_with_the_filtered_dataset(h5ad: Path, run: Run, tmp_path: Path):
    (tmp_path / "config.json").write_text(SEED)
    dest = tmp_path / "d"
    code, out, err = run("run", dest, "--index", h5ad, "--config", tmp_path / "config.json", "--json")
    assert code == 0, err
    cells = wanted(h5ad)
    assert 0 < cells.n_obs < 240
    assert 0 < cells.n_vars < 160
    same(dest, cells)
    facts = json.loads(out)  # of the second step alone
    assert (facts["cells"], facts["complete"]) == (cells.n_obs, True)
    identity = DamageableDataset(dest).open().plan.identity
    assert (identity.cells_per_chunk, identity.level) == (50, 4)
    assert "stay by what the index says; dropped: leave_out_column" in err
    record = json.loads((dest / "processing_config.json").read_text())["quality_control"]
    assert record["rules"] == {
        "min_genes": 30,
        "max_mito_pct": 12.0,
        "leave_out_column": ["is_doublet"],
        "min_cells": 5,
    }
    gone = [drops["first"] for part in (record, record["judged"]) for drops in drops_in(part).values()]
    assert record["cells_before"] - sum(gone) == cells.n_obs == record["judged"]["cells"]["kept"]
    assert run("verify", dest, "--deep", "--source")[0] == 0
    assert run("verify", f"{dest}-raw")[0] == 0
    assert json.loads((dest / "_ingest" / "qc" / "qc.json").read_text())["cells"] == record["judged"]["cells"]
    assert run("gc", dest, "--delete", "--grace", 0)[0] == 0
    assert (dest / "_ingest" / "qc" / "qc.png").exists()


def drops_in(record: dict) -> dict:
    return record.get("dropped_while_planning", record.get("dropped_by_rule", {}))


def test_the_same_again_has_nothing_to_do_even_without_the_first_dataset(h5ad: Path, run: Run, tmp_path: Path):
    command = ("run", tmp_path / "d", "--index", h5ad, "--qc", "min_genes=30", "--qc", "min_cells=5", "-c", 50)
    assert run(*command)[0] == 0
    made = {path: path.read_bytes() for path in (tmp_path / "d" / "chunks").iterdir()}
    shutil.rmtree(tmp_path / "d-raw")
    code, _, err = run(*command)
    assert code == 0, err
    assert "its first step is done" in err
    assert "all 5 chunks are there" in err
    assert not (tmp_path / "d-raw").exists()
    assert {path: path.read_bytes() for path in (tmp_path / "d" / "chunks").iterdir()} == made
    code, _, err = run("run", tmp_path / "d")
    assert code == 0, err
    code, _, err = run(*command[:-3], "min_cells=6", *command[-2:])
    assert code == 1
    assert "rules min_cells 5, min_genes 30 there, min_cells 6, min_genes 30 here" in err
    assert not (tmp_path / "d-raw").exists()  # refused before a first step is made in vain
    code, _, err = run(*command[:-1], 40)
    assert code == 1
    assert "another index or other settings" in err


STEPS = ["bring", "judge", "fetch", "bring-again"]


@pytest.mark.parametrize("step", STEPS)
def test_stopped_anywhere_the_same_command_goes_on(h5ad: Path, run: Run, tmp_path: Path, step: str, monkeypatch):
    command = ("run", tmp_path / "d", "--index", h5ad, "--qc", "min_genes=30", "--qc", "min_cells=5", "-c", 50)
    quiet = ("run", tmp_path / "quiet", *command[2:])
    assert run(*quiet)[0] == 0
    die_before(step, monkeypatch)
    assert run(*command)[0] == 130
    monkeypatch.undo()
    monkeypatch.setenv("CELL_INGEST_POOL", "serial")
    assert run(*command)[0] == 0
    digests = [json.loads((tmp_path / name / "_SUCCESS.json").read_text())["digest"] for name in ("d", "quiet")]
    assert digests[0] == digests[1]


def die_before(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the command at one of its steps, as Ctrl-C would."""
    from ingest.cli import qc, run

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if step == "judge":
        monkeypatch.setattr(qc, "_write", stop)
    elif step == "fetch":
        monkeypatch.setattr(judged, "_fetch", stop)
    else:
        go, calls = run._go, []

        def once(*arguments: object, **options: object) -> int:
            calls.append(1)
            return stop() if len(calls) == STEPS.index(step) // 3 + 1 else go(*arguments, **options)

        monkeypatch.setattr(run, "_go", once)


def test_a_first_step_that_is_not_finished_ends_the_command_with_its_exit_code(
    h5ad: Path, run: Run, tmp_path: Path, monkeypatch
):
    import ingest.chunks
    from ingest.errors import SourceError

    def bad(*_: object, **__: object) -> None:
        raise SourceError("a chunk that cannot be made", kind="scripted")

    monkeypatch.setattr(ingest.chunks.ChunkMaker, "finish", bad)
    code, out, err = run("run", tmp_path / "d", "--index", h5ad, "--qc", "max_mito_pct=12")
    assert (code, out) == (3, "")
    assert "the first of two steps is not finished, nothing was judged" in err
    assert not (tmp_path / "d").exists()
    assert (tmp_path / "d-raw").exists()


def test_a_damaged_first_dataset_is_named(h5ad: Path, run: Run, tmp_path: Path):
    command = ("run", tmp_path / "d", "--index", h5ad, "--qc", "max_mito_pct=12")
    assert run(*command)[0] == 0
    shutil.rmtree(tmp_path / "d")
    flip_bit(DamageableDataset(tmp_path / "d-raw").chunk(0))
    code, _, err = run(*command)
    assert code == 1
    assert f"repair {tmp_path}/d-raw" in err


def test_rules_that_change_before_there_is_a_plan_replace_what_was_judged(h5ad: Path, run: Run, tmp_path: Path):
    command = ("run", tmp_path / "d", "--index", h5ad, "--qc")
    assert run(*command, "min_counts=1e9")[0] == 2
    code, _, err = run(*command, "min_counts=100")
    assert code == 0, err
    assert json.loads((tmp_path / "d" / "_ingest" / "qc" / "qc.json").read_text())["rules"] == {"min_counts": 100.0}
    other = ("run", tmp_path / "e", "--index", h5ad, "--raw-dest", tmp_path / "d-raw", "--qc", "min_counts=300")
    code, _, err = run(*other)  # one first dataset serves several
    assert code == 0, err
    assert "all 1 chunk are there" in err


@pytest.mark.parametrize("rules", [{"min_genes": 55}, {"max_counts": 900.0, "min_genes": 40, "max_genes": 70}])
def test_a_census_answers_from_its_index(census: Path, run: Run, tmp_path: Path, rules: dict):
    said = [item for name, value in rules.items() for item in ("--qc", f"{name}={value}")]
    code, _, err = run("run", tmp_path / "d", "--index", census, *said, "-c", 40)
    assert code == 0, err
    assert not (tmp_path / "d-raw").exists()
    table = pd.read_feather(census)
    kept = table["nnz"].between(rules.get("min_genes", 0), rules.get("max_genes", np.inf))
    kept &= table["raw_sum"] <= rules.get("max_counts", np.inf)
    assert 0 < kept.sum() < len(table)
    cells = pd.read_feather(tmp_path / "d" / "metadata" / "cells.feather")
    assert cells["soma_joinid"].tolist() == table["soma_joinid"][kept].tolist()
    record = json.loads((tmp_path / "d" / "processing_config.json").read_text())["quality_control"]
    assert record["cells_before"] == len(table)
    assert sum(drops["first"] for drops in record["dropped_while_planning"].values()) == (~kept).sum()
    # In two steps, which gene lists bring about, the same cells stay.
    genes = json.loads((tmp_path / "d" / "gene_list.json").read_text())["ids"]
    code, _, err = run("run", tmp_path / "two", "--index", census, *said, "--gene-filter", ",".join(genes), "-c", 40)
    assert code == 0, err
    assert "Step 2" in err
    again = pd.read_feather(tmp_path / "two" / "metadata" / "cells.feather")
    pd.testing.assert_frame_equal(again, cells)


def test_deviations_wait_for_all_cells(census: Path, run: Run, tmp_path: Path):
    code, _, err = run("run", tmp_path / "d", "--index", census, "--qc", "min_genes=55", "--qc", "mad=2")
    assert code == 0, err
    assert "Step 2" in err
    record = json.loads((tmp_path / "d" / "_ingest" / "qc" / "qc.json").read_text())
    assert record["cells"]["n"] == len(pd.read_feather(census))
    assert record["rules"] == {"min_genes": 55, "mad": 2.0}


def test_an_index_that_does_not_state_totals_takes_two_steps(census: Path, run: Run, tmp_path: Path):
    table = pd.read_feather(census)
    table.loc[3, "nnz"] = None
    table.to_feather(tmp_path / "gap.feather")
    for name, index in (("gap", tmp_path / "gap.feather"), ("intersection", census)):
        more = ("--genes", "intersection") if name == "intersection" else ()
        code, _, err = run("run", tmp_path / name, "--index", index, "--qc", "min_genes=55", "--dry-run", *more)
        assert code == 0, err
        assert "Step 1" in err
        assert "what the second step brings depends on the counts" in err
        assert not (tmp_path / name).exists()
        assert not (tmp_path / f"{name}-raw").exists()


def test_n_takes_the_first_rows_and_then_rules_drop(h5ad: Path, run: Run, tmp_path: Path):
    code, _, err = run("run", tmp_path / "d", "--index", h5ad, "-n", 30, "--qc", "leave_out_column=is_doublet")
    assert code == 0, err
    table = pd.read_feather(h5ad).head(30)
    cells = pd.read_feather(tmp_path / "d" / "metadata" / "cells.feather")
    assert cells["row"].tolist() == table["row"][~table["is_doublet"]].tolist()
    assert not (tmp_path / "d-raw").exists()


def test_control_cells_alone_by_the_configs_own_key(h5ad: Path, run: Run, tmp_path: Path):
    (tmp_path / "config.toml").write_text("subset_to_control_cells = true\nchunk_size = 100\n")
    code, _, err = run("run", tmp_path / "d", "--index", h5ad, "--config", tmp_path / "config.toml")
    assert code == 0, err
    assert "leaving out where perturbation is not non-targeting" in err
    cells = pd.read_feather(tmp_path / "d" / "metadata" / "cells.feather")
    assert set(cells["perturbation"]) == {"non-targeting"}


def test_genes_asked_for_are_kept_in_their_order_where_they_pass(h5ad: Path, run: Run, tmp_path: Path):
    genes = [f"ENSG{number:011d}" for number in (100, 3, 159, 40)]
    (tmp_path / "config.json").write_text(
        json.dumps({"gene_processing": {"gene_filter": genes, "min_cells": 5, "normalize": True, "target_sum": 500}})
    )
    code, _, err = run("run", tmp_path / "d", "--index", h5ad, "--config", tmp_path / "config.json")
    assert code == 0, err
    opened = DamageableDataset(tmp_path / "d").open()
    counts = anndata.read_h5ad(h5ad.parent / "cells.h5ad")[:, genes].X
    assert opened.genes.ids == tuple(gene for gene, n in zip(genes, (counts > 0).sum(axis=0).A1, strict=True) if n >= 5)
    assert 0 < len(opened.genes) < 4
    assert opened.plan.identity.normalize == 500
    assert DamageableDataset(tmp_path / "d-raw").open().plan.identity.normalize is None


def test_flags_beat_the_file_rule_by_rule(h5ad: Path, run: Run, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"quality_control": {"min_genes": 30, "max_mito_pct": 12, "mad": null}}')
    command = ("run", tmp_path / "d", "--index", h5ad, "--config", tmp_path / "config.json", "--qc", "min-genes=20")
    code, _, err = run(*command)
    assert code == 0, err
    record = json.loads((tmp_path / "d" / "processing_config.json").read_text())["quality_control"]
    assert record["rules"] == {"min_genes": 20, "max_mito_pct": 12.0}


def test_rules_may_come_from_the_environment(census: Path, run: Run, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CELL_INGEST_QC", "min_genes=55 max_genes=80")
    code, _, err = run("run", tmp_path / "d", "--index", census, "--dry-run")
    assert code == 0, err
    assert "stay by what the index says; dropped: min_genes" in err
    assert "max_genes" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"quality_control": {"min_gene": 3}}', "no quality rule 'min_gene'; did you mean 'min_genes'"),
        ('{"quality_controls": {"min_genes": 3}}', "no setting 'quality_controls'"),
        ('{"quality_control": 3}', "'quality_control' is no table of settings"),
        ('{"gene_processing": {"min_genes": 3}}', "gene_processing: no setting 'min_genes'"),
        ('{"chunk_sise": 3}', "no setting 'chunk_sise'; did you mean 'chunk-size'?"),
        ('{"chunk_size": 3, "chunk_size": 4}', "'chunk_size' stands twice"),
        ('{"chunk_size": 3,\n// a\n"x" }', "no readable JSON file (Expecting ':' delimiter: line 3"),
        ("chunk_size = [", "no readable TOML file"),
        ('{"chunk_size": "many"}', "'many' is not a valid integer"),
    ],
)
def test_mistakes_in_a_file_are_one_line_with_its_name(h5ad: Path, run: Run, tmp_path: Path, text: str, said: str):
    (tmp_path / "config").write_text(text)
    code, out, err = run("run", tmp_path / "d", "--index", h5ad, "--config", tmp_path / "config")
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--qc", "min_genes"), "--qc min_genes: write RULE=VALUE"),
        (("--qc", "min_gene=3"), "did you mean 'min_genes'"),
        (("--qc", "leave_out_column=is_dublet"), "did you mean 'is_doublet'"),
        (("--qc", "leave_out_column=cell_type=T cells"), "did you mean 'T cell'"),
        (("--qc", "subset_to_control_cells=true", "--qc", "control_column=cell_type"), "known to mean control"),
        (("--target-sum", 3), "--target-sum means nothing without --normalize"),
        (("--normalize", "--dtype", "int32"), "--normalize with --dtype int32"),
        (("--config", "nowhere.json"), "nowhere.json: cannot be read"),
    ],
)
def test_mistakes_are_exit_code_2_and_nothing_is_written(h5ad: Path, run: Run, tmp_path: Path, arguments, said: str):
    code, out, err = run("run", tmp_path / "d", "--index", h5ad, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "d").exists()


def test_rules_that_drop_all_say_which(census: Path, h5ad: Path, run: Run, tmp_path: Path):
    code, _, err = run("run", tmp_path / "d", "--index", census, "--qc", "min_genes=5000")
    assert code == 2
    assert "the quality rules drop all of its" in err
    assert "(min_genes " in err
    code, _, err = run("run", tmp_path / "e", "--index", h5ad, "--qc", "min_cells=100000")
    assert code == 2
    assert "the quality rules drop all 160 genes" in err
    assert f"{tmp_path}/e/_ingest/qc/qc.json" in err


def test_settled_by_the_plan(h5ad: Path, run: Run, tmp_path: Path):
    assert run("run", tmp_path / "d", "--index", h5ad)[0] == 0
    code, _, err = run("run", tmp_path / "d", "--qc", "min_genes=3")
    assert code == 2
    assert "--qc shapes a new dataset" in err


def test_comments_leave_strings_and_lines_alone():
    text = '{"a": "http://x // y", // b\n "c\\"//d": 1 / 2, "e": "//"} // "f'
    assert without_comments(text) == '{"a": "http://x // y", \n "c\\"//d": 1 / 2, "e": "//"} '


def test_a_toml_file_with_tables(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text('# {\nchunk_size = 5\n[quality_control]\nmin_genes = 3 # "x"\n')
    assert read_settings(str(path)) == {"chunk_size": 5, "quality_control": {"min_genes": 3}}
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(str(path))
