from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import anndata
import mygene
import pandas as pd
import pytest

from ingest.errors import LabelsError, NoColumnError, TransientError
from ingest.stream import standardise_gene_names
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.screens import assert_same_cells


def genes(*names, **columns):
    return anndata.AnnData(var=pd.DataFrame(columns, index=pd.Index(names)))


def ids(count, start=0):
    return [f"ENSG{number:011d}" for number in range(start, start + count)]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ENSG00000141510.18", "ENSG00000141510"),
        ("ENSMUSG00000034486.8", "ENSMUSG00000034486"),
        ("ENSG00000182378.14_PAR_Y", "ENSG00000182378_PAR_Y"),
        ("AL627309.1", "AL627309.1"),
        ("mt-Nd1", "MT-Nd1"),
        ("Mt-co1", "MT-co1"),
        ("MT-ND1", "MT-ND1"),
        ("mt-", "mt-"),
        ("MTOR", "MTOR"),
        ("amt-1", "amt-1"),
    ],
)
def test_spelling(name, wanted):
    assert standardise_gene_names(genes(name), inplace=False).tolist() == [wanted]


def test_each_can_be_left_out():
    both = genes("ENSG00000141510.18", "mt-Nd1")
    assert standardise_gene_names(both, strip_version=False, inplace=False).tolist() == ["ENSG00000141510.18", "MT-Nd1"]
    kept = standardise_gene_names(both, normalise_mt_prefix=False, inplace=False)
    assert kept.tolist() == ["ENSG00000141510", "mt-Nd1"]
    assert kept.index.tolist() == ["ENSG00000141510.18", "mt-Nd1"]


def test_a_column_with_missing_names():
    found = standardise_gene_names(genes("a", "b", symbol=["mt-Co1", None]), column="symbol", inplace=False)
    assert found.tolist()[0] == "MT-Co1"
    assert found.isna().tolist() == [False, True]
    assert found.name == "symbol"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'drop' is none of keep, warn, error"):
        standardise_gene_names(genes("a"), unmapped_action="drop", inplace=False)
    with pytest.raises(NoColumnError):
        standardise_gene_names(genes("a"), column="symbol", inplace=False)
    with pytest.raises(LabelsError, match="no labels"):
        standardise_gene_names(genes("a", n=[1]), column="n", inplace=False)


@pytest.mark.parametrize("column", [None, "feature_name"])
def test_in_place_that_alone_changes(screen, column):
    path = screen(change=lambda cells: cells.var.__setitem__("feature_name", [f"mt-{n}" for n in range(12)]))
    before = anndata.read_h5ad(path)
    assert standardise_gene_names(path, column=column) is None
    after = anndata.read_h5ad(path)
    assert_same_cells(after, before, but=["var.index" if column is None else f"var.{column}"])
    if column is None:
        assert after.var_names.tolist() == [name.split(".")[0] for name in before.var_names]
    else:
        assert after.var[column].tolist() == [f"MT-{number}" for number in range(12)]


@pytest.mark.parametrize("legacy", ["0.6", "0.7"])
@pytest.mark.filterwarnings("ignore::Warning:anndata", "ignore::FutureWarning", "ignore:Element:Warning")
def test_old_files(tmp_path, legacy):
    names = [f"{name}.4" for name in ids(5)]
    path = write_h5ad_variant(tmp_path / "old.h5ad", sample_counts(40, 5), legacy=legacy, var_ids=names)
    before = anndata.read_h5ad(path)
    standardise_gene_names(path)
    after = anndata.read_h5ad(path)
    assert after.var_names.tolist() == ids(5)
    pd.testing.assert_frame_equal(after.var.reset_index(drop=True), before.var.reset_index(drop=True))
    pd.testing.assert_frame_equal(after.obs, before.obs)


def test_names_that_become_equal_are_said(screen):
    def change(cells):
        cells.var_names = [f"ENSG00000000007.{number}" for number in range(12)]

    path = screen(change=change)
    with pytest.warns(UserWarning, match="11 are not unique now"):
        standardise_gene_names(path)


class _MyGene(BaseHTTPRequestHandler):
    """Answers as MyGene.info does: a list of hits in the order of the queries, several for one, notfound for none."""

    asked: list[dict[str, list[str]]]

    def do_POST(self):  # the name that http.server looks for
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fields = {name: values[0] for name, values in parse_qs(body).items()}
        queries = [query.strip('"') for query in fields["q"].split(",")]
        type(self).asked.append({**fields, "q": queries})
        hits = []
        for query in queries:
            number = int(query.removeprefix("ENSG"))
            if number % 10 == 9:
                hits.append({"query": query, "notfound": True})
            elif number % 10 == 8:
                hits.append({"query": query, "_id": "1", "_score": 2.0})  # a gene without a symbol
            else:
                hits.append({"query": query, "_id": "1", "_score": 20.0, "symbol": f"SYM{number}"})
                hits.append({"query": query, "_id": "2", "_score": 3.0, "symbol": "OTHER"})
        answer = json.dumps(hits).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args):
        pass


@pytest.fixture
def service(monkeypatch):
    """MyGene.info at home: its real client, a real HTTP server."""
    handler = type("Handler", (_MyGene,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _client_at(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}/v3")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def _client_at(monkeypatch, url):
    monkeypatch.setattr(mygene.MyGeneInfo, "_default_url", url)
    monkeypatch.setattr(mygene.MyGeneInfo, "_delay", 0)  # the client's own second between requests


def test_ids_become_symbols_a_thousand_a_request(service):
    names = [*(f"{name}.2" for name in ids(2_003)), "TP53", "mt-Nd1"]
    with pytest.warns(UserWarning, match=r"no symbol for 400 of 2,003 ids \(ENSG00000000008, .*, …\); they stay"):
        found = standardise_gene_names(genes(*names), lookup_symbols=True, species="mouse", inplace=False).tolist()
    assert [len(fields["q"]) for fields in service.asked] == [1000, 1000, 3]
    assert {fields["species"] for fields in service.asked} == {"mouse"}
    assert {fields["scopes"] for fields in service.asked} == {"ensembl.gene"}
    assert found[:9] == [*(f"SYM{number}" for number in range(8)), "ENSG00000000008"]
    assert found[-2:] == ["TP53", "MT-Nd1"]  # never asked for


def test_versions_are_kept_where_asked_but_not_asked_with(service):
    found = standardise_gene_names(
        genes("ENSG00000000001.7", "ENSG00000000009.7"),
        lookup_symbols=True,
        strip_version=False,
        unmapped_action="keep",
        inplace=False,
    )
    assert found.tolist() == ["SYM1", "ENSG00000000009.7"]
    assert service.asked[0]["q"] == ["ENSG00000000001", "ENSG00000000009"]


@pytest.mark.usefixtures("service")
def test_unknown_ids_as_an_error_leave_the_file(screen):
    path = screen()
    before = path.read_bytes()
    with pytest.raises(LabelsError, match="no symbol for 2 of 12 ids") as caught:
        standardise_gene_names(path, lookup_symbols=True, unmapped_action="error")
    assert caught.value.kind == "unmapped-genes"
    assert path.read_bytes() == before


@pytest.mark.usefixtures("service")
def test_symbols_in_place(screen):
    path = screen()
    standardise_gene_names(path, lookup_symbols=True, unmapped_action="keep")
    assert anndata.read_h5ad(path).var_names.tolist()[7:10] == ["SYM7", "ENSG00000000008", "ENSG00000000009"]


def test_without_an_id_nobody_is_asked(service):
    standardise_gene_names(genes("TP53"), lookup_symbols=True, inplace=False)
    assert service.asked == []


def test_no_answer_is_a_transient_error(monkeypatch):
    _client_at(monkeypatch, "http://127.0.0.1:9/v3")
    with pytest.raises(TransientError, match="does not answer"):
        standardise_gene_names(genes("ENSG00000000001"), lookup_symbols=True, inplace=False)


def test_without_mygene_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mygene", None)  # what importing a package that is not there comes to
    assert standardise_gene_names(genes("ENSG00000000001.2"), inplace=False).tolist() == ["ENSG00000000001"]
    with pytest.raises(ImportError, match=r"pip install 'cell-ingest\[symbols\]'"):
        standardise_gene_names(genes("ENSG00000000001"), lookup_symbols=True, inplace=False)
