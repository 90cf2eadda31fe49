from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import HostileFileError, NoFileError
from ingest.stream import detect_gene_symbol_column, detect_perturbation_column, infer_columns, labels
from ingest.stream.labels import annotations
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

REAL = Path(__file__).parents[4] / ".." / "shared" / "data"
quiet = {"verbose": False}


def cells(**columns):
    return anndata.AnnData(obs=pd.DataFrame(columns, index=[str(i) for i in range(len(next(iter(columns.values()))))]))


def genes(**columns):
    return anndata.AnnData(var=pd.DataFrame(columns, index=[str(i) for i in range(len(next(iter(columns.values()))))]))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"batch": ["a", "b"], "perturbation": ["x", "y"]}, "perturbation"),
        ({"gene": [1, 2], "what": ["TP53", "ctrl"]}, "what"),  # 3 + 1 against 2 + 1 + 2
        ({"gene": [1, 1], "what": ["TP53", "KRAS"]}, "gene"),  # 3 against 2 + 1, a known name first
        ({"sgRNA": ["a", "b"], "Guide_Identity": ["a", "b"]}, "Guide_Identity"),  # any case; order of the known names
        ({"first": ["a", "b"], "second": ["a", "b"]}, "first"),
        ({"n": [1.5, 2.5]}, "n"),
        ({"n": [1.5, 1.5]}, None),
        ({"n": [None, None]}, "n"),  # text, for what is known of it
    ],
)
def test_the_best_of_obs(columns, found):
    assert detect_perturbation_column(cells(**columns), **quiet) == found


def test_the_given_control_label_counts_instead_of_the_usual_ones():
    data = cells(a=["TP53", "ctrl"], b=["TP53", "AAVS1"])
    assert detect_perturbation_column(data, **quiet) == "a"
    assert detect_perturbation_column(data, control_label="AAVS1", **quiet) == "b"
    assert detect_perturbation_column(cells(a=["x", "y"], number=[1, 7]), control_label="7", **quiet) == "a"


def test_min_unique_and_the_most_labels():
    many = [f"l{number}" for number in range(5_001)]
    data = cells(barcode=many, few=["a"] * 5_000 + ["b"], three=["a", "b", "c"] * 1_667)
    assert detect_perturbation_column(data, **quiet) == "few"
    assert detect_perturbation_column(data, min_unique=3, **quiet) == "three"
    data = cells(barcode=[*many[:-1], "x_ctrl"], few=["a"] * 5_000 + ["b"])
    assert detect_perturbation_column(data, **quiet) == "barcode"  # 2 + 2: control is looked for in all of them


def test_categories_that_do_not_occur_do_not_count():
    unused = pd.Categorical(["a", "b"], ["a", "b", "control"])
    assert detect_perturbation_column(cells(first=["c", "d"], unused=unused), **quiet) == "first"


def test_gene_symbols():
    ids = [f"ENSG{number:011d}" for number in range(4)]
    symbols = ["TP53", "KRAS", "MT-ND1", "ENSA"]
    assert detect_gene_symbol_column(genes(id=ids, kind=["coding"] * 4, name=symbols), **quiet) == "name"
    assert detect_gene_symbol_column(genes(name=symbols, gene_symbol=symbols), **quiet) == "gene_symbol"
    assert detect_gene_symbol_column(genes(gene_name=ids, other=symbols), **quiet) == "other"
    assert detect_gene_symbol_column(genes(id=ids, n=[1, 2, 3, 4]), **quiet) is None
    # 2 points against 3: one has an id among its symbols
    assert detect_gene_symbol_column(genes(a=[*symbols[:3], ids[0]], b=symbols), **quiet) == "b"


def test_verbose_says_what_spoke_for_it_and_when_it_is_a_guess(capsys):
    detect_perturbation_column(cells(guide=["TP53", "ctrl"]))
    said = capsys.readouterr()
    assert said.out == ""
    assert "column 'guide' (a known name, categorical or text, 2 values, control cells: 'ctrl')" in said.err
    detect_perturbation_column(cells(batch=["a", "b"]))
    assert "a guess" in capsys.readouterr().err
    infer_columns(cells(n=[1, 1]))
    assert capsys.readouterr().err.count("nothing speaks for any column") == 2


@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
def test_a_file_a_backed_and_an_annotated_matrix_in_memory_agree(tmp_path, legacy, monkeypatch):
    monkeypatch.setattr(annotations, "_PIECE_ROWS", 7)
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(40, 5), legacy=legacy)
    memory = anndata.read_h5ad(path) if legacy is None else None
    wanted = {"perturbation_column": "condition", "gene_name_column": "feature_name"}
    assert infer_columns(path, **quiet) == infer_columns(str(path), **quiet) == wanted
    if memory is not None:
        assert infer_columns(memory, **quiet) == wanted
        assert infer_columns(anndata.read_h5ad(path, backed="r"), **quiet) == wanted


def test_what_was_changed_in_memory_is_seen_not_the_file(screen):
    backed = anndata.read_h5ad(screen(), backed="r")
    backed.obs["perturbation"] = pd.Categorical(["ctrl", "x"] * 30)
    assert detect_perturbation_column(backed, **quiet) == "perturbation"


def test_what_is_no_data_is_a_type_error_and_what_is_not_there_a_file_error(tmp_path):
    with pytest.raises(TypeError, match="list"):
        infer_columns([1, 2])
    with pytest.raises(NoFileError, match="no such file"):
        infer_columns(tmp_path / "none.h5ad")
    (tmp_path / "text.h5ad").write_text("barcode,gene")
    with pytest.raises(HostileFileError, match="no HDF5 file"):
        infer_columns(tmp_path / "text.h5ad")


@given(st.lists(st.lists(st.sampled_from(["a", "b", "ctrl", None]), min_size=4, max_size=4), min_size=1, max_size=4))
def test_the_order_of_cells_does_not_matter(columns):
    frame = {f"c{number}": values for number, values in enumerate(columns)}
    backwards = {name: values[::-1] for name, values in frame.items()}
    found, again = (detect_perturbation_column(cells(**one), **quiet) for one in (frame, backwards))
    assert found == again


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout")
@pytest.mark.parametrize(
    ("name", "perturbation", "symbols"),
    [
        ("perturb_datlinger_scifi_7500", "perturbation", None),
        ("cxg_small_perturbations", "genetic_perturbation_strategy", "feature_name"),
        ("transcriptformer_mouse_val", "tissue_ontology_term_id", "gene_name"),
        ("worm_l2", "plate", "gene_short_name"),
        ("op_scicar_100_catnan", "replicate", "gene_short_name"),
    ],
)
@pytest.mark.filterwarnings("ignore::Warning")
def test_real_files(name, perturbation, symbols):
    path = REAL / f"{name}.h5ad"
    wanted = {"perturbation_column": perturbation, "gene_name_column": symbols}
    assert infer_columns(path, **quiet) == infer_columns(anndata.read_h5ad(path), **quiet) == wanted


def test_importing_the_names_brings_neither_anndata_nor_mygene():
    names = "anndata", "pandas", "h5py", "mygene"
    code = f"import ingest.stream.labels, sys; print([n for n in {names} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert "infer_columns" in dir(labels)
