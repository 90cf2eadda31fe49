"""The hostile corpus: structure is refused by its rule, in this process, which must live; values are taken."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ingest.errors import IngestError, NoMatrixError
from ingest.load.memmap.archive import ArchiveSpec, ArrayFiles
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.convert.h5ad import H5adRows
from ingest.testing.h5ad_files import hostile_files
from ingest.testing.h5ad_hostile import ACCEPTED

TAKEN = {ACCEPTED, "not-finite", "negative", "fractional", "duplicate-entry", "duplicate-gene"}
"""Rules that stored entries may break, and names of genes."""
KINDS = {
    "index-dtype": {"index-type"},
    "value-dtype": {"value-type"},
    "decoded-size": {"decoded-size", "shape"},
    "code-range": {"unreadable"},
}
BOMB_BYTES = 1 << 26


def take_everything(path, folder):
    """Write all rows, and look at all that features are made of."""
    rows = H5adRows(path, use_X_not_raw=True, threads=2)
    try:
        bounds = np.array([0, 5, rows.n_rows])
        entries = rows.entries_before(bounds)
        with ArrayFiles.create(
            folder, ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, "uint8")
        ) as into:
            for first, last, at in zip(bounds[:-1].tolist(), bounds[1:].tolist(), entries.tolist(), strict=False):
                rows.write(Place(first, last - first, first, at), into)
        return rows.obs_features(), rows.var_features()
    finally:
        rows.close()


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_the_corpus(tmp_path, layout):
    corpus = hostile_files(tmp_path, layout=layout, bomb_bytes=BOMB_BYTES)
    wrong = []
    for name, (path, rule) in corpus.items():
        folder = tmp_path / f"of-{name}"
        folder.mkdir()
        try:
            take_everything(path, folder)
        except NoMatrixError as error:
            found = (name, str(error)) == ("no-matrix", NO_X)
        except IngestError as error:
            about = path.name in str(error) and "\n" not in str(error) and error.source is not None
            same = str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 # our own
            found = about and same and rule not in TAKEN and error.kind in KINDS.get(rule, {rule})
            if not found:
                wrong.append((name, rule, error.kind, str(error)))
            continue
        else:
            found = rule in TAKEN
        if not found:
            wrong.append((name, rule))
    assert wrong == []


NO_X = "This file does not have count data; set use_X_not_raw=False to use raw counts instead."
