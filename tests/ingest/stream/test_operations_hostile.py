"""The hostile corpus through every operation that writes: refused by its rule, and nothing is left of the try."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ingest.errors import HostileFileError, IngestError, NoMatrixError
from ingest.stream.convert import convert_to_csc, convert_to_csr
from ingest.stream.iterate import iter_matrix_chunks
from ingest.stream.matrix.rewrite import rewrite
from ingest.stream.normalize import normalize_total_log1p
from ingest.stream.subset import write_filtered_subset
from ingest.testing.h5ad_files import hostile_files
from ingest.testing.h5ad_hostile import ACCEPTED
from ingest.testing.hostile.cases import h5ad_cases
from ingest.testing.hostile.good import write_good_h5ad

TAKEN = {ACCEPTED, "not-finite", "negative", "fractional", "duplicate-entry", "duplicate-gene"}
"""Rules that values may break here, and names of genes."""
KINDS = {
    "index-dtype": {"index-type"},
    "value-dtype": {"value-type"},
    "decoded-size": {"decoded-size", "shape"},
    "code-range": {"code-range", "unreadable"},
}
N_CELLS, N_GENES = 24, 40


def subset(path, out):
    write_filtered_subset(
        path, cell_mask=np.arange(N_CELLS) != 12, gene_mask=np.arange(N_GENES) != 20, output_path=out, chunk_size=5
    )


OPERATIONS = {
    "csc": lambda path, out: convert_to_csc(path, output_path=out, verbose=False),
    "csr": lambda path, out: convert_to_csr(path, output_path=out, verbose=False),
    "normalize": lambda path, out: normalize_total_log1p(path, out, verbose=False),
    "subset": subset,
    "rewrite": lambda path, out: rewrite(path, out, rows=np.arange(N_CELLS)[::-1], layout="csr"),
    "iterate": lambda path, _: [list(iter_matrix_chunks(path, axis=axis, chunk_size=7)) for axis in (0, 1)],
}


TABLES = {"not-utf8-obs", "not-utf8-gene", "not-utf8-label", "label-code-beyond"}
"""Of the corpus those whose X is good: who reads nothing else sees nothing."""


@pytest.mark.parametrize(
    ("operation", "layout"),
    [(name, layout) for name in OPERATIONS for layout in ("csr", "csc") if name != layout],  # else nothing is done
)
@pytest.mark.sampled(3)
def test_the_corpus(operation, layout, tmp_path):
    corpus = hostile_files(tmp_path, layout=layout, bomb_bytes=1 << 26)
    before = {path.name for path in tmp_path.iterdir()}
    out = tmp_path / "made" / "out.h5ad"
    out.parent.mkdir()
    wrong = []
    for name, (path, rule) in corpus.items():
        try:
            OPERATIONS[operation](path, out)
        except NoMatrixError:
            if name != "no-matrix":
                wrong.append((name, rule, "no matrix"))
        except IngestError as error:
            about = path.name in str(error) and "\n" not in str(error) and error.source is not None
            same = str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 # our own
            if not (about and same and rule not in TAKEN and error.kind in KINDS.get(rule, {rule})):
                wrong.append((name, rule, error.kind, str(error)))
        except Exception as error:  # noqa: BLE001 # is what must not be
            wrong.append((name, rule, repr(error)))
        else:
            without = {"iterate": TABLES, "subset": {"no-matrix"}, "rewrite": {"no-matrix"}}.get(operation, set())
            if rule not in TAKEN and name not in without:
                wrong.append((name, rule, "taken"))
            if operation != "iterate":
                out.unlink()
        if list(out.parent.iterdir()):
            wrong.append((name, rule, "left", list(out.parent.iterdir())))
            for left in out.parent.iterdir():
                left.unlink()
    assert wrong == []
    assert {path.name for path in tmp_path.iterdir()} == before | {"made"}


@pytest.mark.parametrize(("case", "operation"), [("uns-dataset", "normalize"), ("column-compound", "subset")])
def test_parts_that_hold_something_else_are_named(case, operation, tmp_path):
    path, out = tmp_path / "a.h5ad", tmp_path / "made" / "out.h5ad"
    out.parent.mkdir()
    [make] = [one.make for one in h5ad_cases() if one.name == case]
    make(write_good_h5ad(tmp_path / "good.h5ad"), path)
    with pytest.raises(HostileFileError, match=r"a\.h5ad: (uns|obs/score): ") as caught:
        OPERATIONS[operation](path, out)
    assert caught.value.kind == "unreadable"
    assert list(out.parent.iterdir()) == []
