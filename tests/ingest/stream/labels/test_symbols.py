from __future__ import annotations

import logging

import anndata
import pandas as pd
import pytest

from ingest.errors import LabelsError, NoColumnError
from ingest.stream import ensure_gene_symbol_column
from ingest.stream.labels.symbols import is_gene_id


def table(index, **columns):
    return anndata.AnnData(var=pd.DataFrame(columns, index=pd.Index(index)))


IDS = """
    ENSG00000141510 ENSG00000141510.18 ENSG00000182378.14_PAR_Y ENSMUSG00000034486.8 ENSDARG00000102141
    ENST00000269305 ENSP00000269305 FBgn0000008 WBGene00000010 YAL001C YDR210W-B
"""


@pytest.mark.parametrize("name", IDS.split())
def test_ids(name):
    assert is_gene_id(name)


@pytest.mark.parametrize("name", ["TP53", "ENSA", "ENSAP1", "AL627309.1", "mt-Nd1", "YAP1", "FBN1", "aat-9", "", "1"])
def test_no_ids(name):
    assert not is_gene_id(name)


def test_a_column_or_var_names(caplog):
    genes = table(["TP53", "KRAS"], symbol=["A", "B"])
    assert list(ensure_gene_symbol_column(genes, "symbol")) == ["A", "B"]
    with caplog.at_level(logging.INFO):
        assert list(ensure_gene_symbol_column(genes, None)) == ["TP53", "KRAS"]
    assert "var_names are taken" in caplog.text
    assert list(ensure_gene_symbol_column(genes, "gene_symbols")) == ["TP53", "KRAS"]
    assert isinstance(ensure_gene_symbol_column(genes, "symbol"), pd.Index)


def test_another_missing_column_is_a_key_error_that_names_those_there():
    with pytest.raises(NoColumnError, match="no column 'symbl' in var") as caught:
        ensure_gene_symbol_column(table(["TP53"], symbol=["A"]), "symbl")
    assert isinstance(caught.value, KeyError)
    assert caught.value.hint == "did you mean 'symbol'? there are symbol"
    assert str(caught.value) == "this AnnData: no column 'symbl' in var"


def test_more_than_half_ids_are_refused():
    half = table(["ENSG00000000001", "TP53"])
    assert len(ensure_gene_symbol_column(half, None)) == 2
    with pytest.raises(LabelsError, match=r"ids of genes such as ENSG00000000001, no symbols \(67%\)"):
        ensure_gene_symbol_column(table(["ENSG00000000001", "FBgn0000008", "TP53"]), None)


@pytest.mark.parametrize("column", [[None, None], ["", " "]])
def test_no_names_at_all_are_refused(column):
    with pytest.raises(LabelsError, match="holds no gene names"):
        ensure_gene_symbol_column(table(["a", "b"], symbol=column), "symbol")


def test_of_a_file(screen):
    path = screen()
    assert list(ensure_gene_symbol_column(path, "feature_name")) == [f"GENE{number // 2}" for number in range(12)]
    assert list(ensure_gene_symbol_column(anndata.read_h5ad(path, backed="r"), "feature_name"))[-1] == "GENE5"
    with pytest.raises(LabelsError, match=r"screen\.h5ad: var_names holds ids"):
        ensure_gene_symbol_column(path, None)
