"""``convert`` as people meet it: what is said, what is made, what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest

from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `convert` in a folder with ``cells.h5ad``: 60 cells x 30 genes, CSR."""
    monkeypatch.chdir(tmp_path)
    write_h5ad_variant(
        tmp_path / "cells.h5ad", sample_counts(60, 30), obs=sample_obs(60), var_ids=[f"G{n}" for n in range(30)]
    )
    return lambda *arguments: run("convert", *arguments)


def test_csc_and_back(run: Run, tmp_path: Path):
    code, out, err = run("csc", "cells.h5ad")
    assert (code, err) == (0, "cells.h5ad: X, csr, as CSC in ingest_csc.h5ad\n")
    assert out.startswith("  ingest_csc.h5ad   ")
    code, out, _ = run("csr", "ingest_csc.h5ad", "-o", "back.h5ad", "--json", "--chunk-size", 7)
    facts = json.loads(out)
    assert (facts["path"], facts["written"]) == ("back.h5ad", True)
    assert facts["bytes"] == (tmp_path / "back.h5ad").stat().st_size
    first, back = anndata.read_h5ad("cells.h5ad"), anndata.read_h5ad("back.h5ad")
    assert (first.X != back.X).nnz == 0
    assert anndata.read_h5ad("ingest_csc.h5ad").X.format == "csc"


def test_nothing_to_do_is_said(run: Run, tmp_path: Path):
    code, out, err = run("csr", "cells.h5ad", "--json")
    assert (code, json.loads(out)["written"]) == (0, False)
    assert "already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_normalize(run: Run):
    assert run("normalize", "cells.h5ad", "--target-sum", "10", "--no-log1p")[0] == 0
    totals = np.asarray(anndata.read_h5ad("ingest_normalized.h5ad").X.sum(axis=1)).ravel()
    np.testing.assert_allclose(totals[totals > 0], 10, rtol=1e-5)
    code, _, err = run("normalize", "cells.h5ad", "--no-log1p", "--no-normalize")
    assert (code, "nothing to do" in err) == (2, True)
    assert run("normalize", "cells.h5ad", "--target-sum", "0")[0] == 2


def test_subset(run: Run, tmp_path: Path):
    (tmp_path / "genes.txt").write_text("G7\nG3 # a marker\n")
    where = "cell_type == 'T cell' and pct_mito < 0.5"
    code, out, err = run("subset", "cells.h5ad", "-o", "some.h5ad", "--where", where, "--genes", "@genes.txt")
    cells, made = anndata.read_h5ad("cells.h5ad"), anndata.read_h5ad("some.h5ad")
    kept = ((cells.obs.cell_type == "T cell") & (cells.obs.pct_mito < 0.5)).to_numpy()
    assert (code, err) == (0, f"Subset   {kept.sum()} of 60 cells, 2 of 30 genes\n")
    assert out.startswith("  some.h5ad   ")
    assert made.obs_names.tolist() == cells.obs_names[kept].tolist()
    assert made.var_names.tolist() == ["G3", "G7"]
    assert (cells.X[kept][:, [3, 7]] != made.X).nnz == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("csc", "none.h5ad"), 1, "none.h5ad: there is no such file"),
        (("csc", "cells.h5ad", "-o", "cells.h5ad"), 2, "the input itself"),
        (("csc", "cells.h5ad", "-o", "none/out.h5ad"), 2, "there is no such folder"),
        (("cscs", "cells.h5ad"), 2, "did you mean 'csc'"),
        (("subset", "cells.h5ad", "-o", "x.h5ad"), 2, "--where or --genes"),
        (("subset", "cells.h5ad", "-o", "x.h5ad", "--where", "cell_typ == 'x'"), 2, "did you mean 'cell_type'"),
        (("subset", "cells.h5ad", "-o", "x.h5ad", "--where", "cell_type = 'x'"), 2, "error: "),
        (("subset", "cells.h5ad", "-o", "x.h5ad", "--genes", "G1,Q1,Q2"), 2, "no gene Q1, Q2"),
    ],
)
def test_what_is_wrong_is_one_readable_line(run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert 1 <= len(err.splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_help_ends_with_examples_that_work(run: Run):
    for command in ((), ("csc",), ("csr",), ("normalize",), ("subset",)):
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Examples:\n  python -m ingest convert " in out
