"""Several datasets as one: with the genes of any, or those that all have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from ingest.errors import ConfigError, EmptySelectionError
from ingest.load.dataset import open_chunks
from ingest.load.torch.create import create_dataloader
from ingest.settings import DataSettings
from ingest.testing.datasets import write_h5ad_index
from ingest.testing.plain_chunks import PlainCells, read_plainly
from ingest.testing.shelf import add_columns, make_blocky, write_sample

ORDERS = {"a": range(0, 20), "b": range(30, 4, -1), "c": range(12, 18)}
"""Genes of each: b has those of a in another order, and others; c some of both."""


@dataclass
class Several:
    paths: list
    plain: list[PlainCells]

    def expected(self, genes):
        """Return the counts of all cells under these genes, zero where one has not been measured."""
        frames = [pd.DataFrame(p.matrix.toarray(), columns=list(p.genes)) for p in self.plain]
        return np.vstack([frame.reindex(columns=genes, fill_value=0).to_numpy() for frame in frames])

    @property
    def n_cells(self):
        return [len(plain.obs) for plain in self.plain]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    paths = []
    for number, (name, genes) in enumerate(ORDERS.items()):
        ids = [f"ENSG{gene:011d}" for gene in genes]
        file = write_sample(folder / f"{name}.h5ad", n_cells=25 + number, n_genes=len(ids), seed=number, genes=ids)
        index = add_columns(write_h5ad_index(folder / f"{name}.feather", [file]))
        table = pd.read_feather(index)
        table["only"] = name
        table["kind"] = pd.Categorical([f"{name}{n % 2}" for n in range(len(table))])
        if name == "b":
            table = table.drop(columns="note")
        table.to_feather(index)
        data = DataSettings(cells_per_chunk=9, **({"format": "h5", "dtype": "int16"} if name == "b" else {}))
        make_blocky(str(folder / name), index, data)
        paths.append(folder / name)
    return Several(paths, [read_plainly(path) for path in paths])


def dense(counts):
    found = np.zeros((counts.n_cells, counts.n_genes))
    for row in range(counts.n_cells):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        assert (np.diff(counts.indices[part]) > 0).all()
        found[row, counts.indices[part]] = counts.data[part]
    return found


@pytest.mark.parametrize("align", ["union", "intersection"])
def test_counts(several, align):
    cells = open_chunks(several.paths, align=align, threads=2)
    sets = [set(plain.genes) for plain in several.plain]
    wanted = set.union(*sets) if align == "union" else set.intersection(*sets)
    assert set(cells.genes.ids) == wanted
    assert cells.n_cells == sum(several.n_cells)
    expected = several.expected(list(cells.genes.ids))
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(dense(cells.counts(np.arange(cells.n_cells))), expected)
    for _ in range(10):
        rows = rng.integers(0, cells.n_cells, 40)
        np.testing.assert_array_equal(dense(cells.counts(rows)), expected[rows])


def test_genes_that_only_some_have(several):
    cells = open_chunks(several.paths)
    wanted = [f"ENSG{gene:011d}" for gene in (29, 3, 14, 0)]
    rows = np.random.default_rng(0).permutation(cells.n_cells)
    read = cells.read(rows, cells.gene_columns(wanted)[1])
    np.testing.assert_array_equal(dense(read.counts), several.expected(wanted)[rows])
    sums = np.concatenate([plain.matrix.sum(axis=1).A1 for plain in several.plain])
    np.testing.assert_allclose(read.totals, sums[rows])


def test_order_of_datasets_is_order_of_cells(several):
    cells = open_chunks(several.paths[::-1])
    names = [f"{number}/{name}" for number, plain in enumerate(several.plain[::-1]) for name in plain.names]
    assert cells.cell_ids(range(cells.n_cells)) == names
    rows = np.random.default_rng(1).permutation(cells.n_cells)
    assert cells.cell_ids(rows) == [names[row] for row in rows]
    assert cells.find([names[row] for row in rows]).tolist() == rows.tolist()
    assert cells.locate(several.n_cells[2]) == (1, 0, 0)


def test_a_name_without_its_number_is_no_name(several):
    cells = open_chunks(several.paths)
    name = several.plain[0].names[0]
    assert cells.find([f"0/{name}"]).tolist() == [0]
    with pytest.raises(ConfigError, match="no cell"):
        cells.find([name])


def test_obs_of_all(several):
    cells = open_chunks(several.paths)
    obs = pd.concat([plain.obs for plain in several.plain], ignore_index=True)
    assert "note" not in cells.obs  # not all have it
    rows = np.random.default_rng(2).permutation(cells.n_cells)
    for column in ("tissue", "only", "kind", "age", "score", "primary"):
        found = cells.column(column, rows)
        values = found.values.tolist()
        if found.categories is not None:
            assert list(found.categories) == sorted(set(obs[column].dropna()))
            values = [found.categories[code] if code >= 0 else None for code in values]
        assert values == obs[column].iloc[rows].tolist()
    assert cells.where("kind in ['a1', 'c0'] and age < 3").tolist() == (
        obs.index[obs.kind.isin(["a1", "c0"]) & (obs.age < 3)].tolist()
    )
    table = cells.obs.table()
    assert table["kind"].to_pylist() == obs.kind.tolist()
    assert table["age"].to_pylist() == obs.age.tolist()


def test_a_loader_over_all(several):
    cells = open_chunks(several.paths)
    loader = create_dataloader(cells, 8, window_cells=24, obs=["only"], balance=None)
    place = {
        f"{n}/{name}": at for at, (n, name) in enumerate((n, x) for n, p in enumerate(several.plain) for x in p.names)
    }
    expected = several.expected(list(loader.genes.ids))
    seen = []
    for expression, metadata in loader:
        rows = [place[name] for name in metadata["cell_id"]]
        np.testing.assert_array_equal(expression.numpy(), expected[rows])
        assert [loader.categories["only"][c] for c in metadata["only"].tolist()] == [
            "abc"[int(x[0])] for x in metadata["cell_id"]
        ]
        seen += rows
    assert sorted(seen) == list(range(cells.n_cells))


def test_what_was_measured(several):
    """A gene that a cell's own dataset does not have was not measured there, zero as its count may be."""
    cells = open_chunks(several.paths)
    rows = np.cumsum([0, *several.n_cells])[:3]
    for row, plain in zip(rows.tolist(), several.plain, strict=True):
        assert cells.measured([row])[0].tolist() == [gene in plain.genes for gene in cells.genes.ids]


def test_an_experiment_in_two_datasets(several):
    """SRX0 has cells in each, of which each has its own genes."""
    cells = open_chunks(several.paths)
    assert cells.experiment_column == "SRX_accession"
    assert cells.categories("SRX_accession") == ("SRX0",)
    assert cells.measured().tolist() == [[True] * cells.n_genes]


def test_one_twice(several):
    """Nobody forbids it; every cell has a name of its own all the same."""
    cells = open_chunks([several.paths[0], several.paths[0]])
    assert len(set(cells.cell_ids(range(50)))) == 50
    np.testing.assert_array_equal(dense(cells.counts([3, 28])), several.plain[0].matrix[[3, 3]].toarray())


def test_nothing_in_common(several, tmp_path):
    file = write_sample(tmp_path / "x.h5ad", n_cells=10, n_genes=4, genes=[f"ENSG9000000000{n}" for n in range(4)])
    make_blocky(str(tmp_path / "x"), write_h5ad_index(tmp_path / "x.feather", [file]))
    with pytest.raises(EmptySelectionError, match="no genes are left"):
        open_chunks([several.paths[0], tmp_path / "x"], align="intersection")
    with pytest.raises(ConfigError, match="'union' or 'intersection'"):
        open_chunks(several.paths, align="inner")


def test_a_column_that_is_text_here_and_numbers_there(several, tmp_path):
    """One line that names the column, not a message of a library."""
    file = write_sample(tmp_path / "x.h5ad", n_cells=10, n_genes=20)
    index = add_columns(write_h5ad_index(tmp_path / "x.feather", [file]))
    table = pd.read_feather(index)
    table["age"] = [f"{age} years" for age in table["age"]]
    table.to_feather(index)
    make_blocky(str(tmp_path / "x"), index)
    cells = open_chunks([several.paths[0], tmp_path / "x"])
    for ask in (lambda: cells.categories("age"), lambda: cells.column("age", [0, 30]), lambda: cells.where("age == 3")):
        with pytest.raises(ConfigError, match="age"):
            ask()
    assert cells.column("tissue", [0, 30]).categories
