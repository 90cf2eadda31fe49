from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, LabelsError, NoColumnError, NoFileError
from ingest.stream import normalise_perturbation_labels, sort_by_perturbation
from ingest.stream.labels import edit
from ingest.stream.labels.normalise import label_rules, map_labels
from ingest.stream.labels.terms import CONTROL_ALIASES
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.screens import assert_same_cells


def cells(labels):
    obs = pd.DataFrame({"guide": labels}, index=[f"c{number}" for number in range(len(labels))])
    return anndata.AnnData(obs=obs)


def made(labels, **rules):
    return normalise_perturbation_labels(cells(labels), "guide", inplace=False, **rules)


@pytest.mark.parametrize(
    ("label", "rules", "wanted"),
    [
        ("sgTP53", {"strip_prefixes": ["sg"]}, "TP53"),
        ("sg_TP53", {"strip_prefixes": ["sg", "sg_"]}, "TP53"),  # the longest first
        ("CRISPRi_sgTP53", {"strip_prefixes": ["sg", "CRISPRi_"]}, "TP53"),
        ("sgsgTP53", {"strip_prefixes": ["sg"]}, "sgTP53"),  # once
        ("TP53_KO", {"strip_suffixes": ["_KO"]}, "TP53"),
        ("HLA-A-1", {"strip_suffix_regex": r"-\d+"}, "HLA-A"),
        ("GENE_1_2", {"strip_suffix_regex": r"_\d+"}, "GENE_1"),
        ("GENE_1x", {"strip_suffix_regex": r"_\d+"}, "GENE_1x"),  # at the end alone
        ("A|B", {"strip_suffix_regex": "A|B"}, "A|"),
        ("TP53_1_KO", {"strip_suffixes": ["_KO"], "strip_suffix_regex": r"_\d"}, "TP53"),
        ("TP53_KO_1", {"strip_suffixes": ["_KO"], "strip_suffix_regex": r"_\d"}, "TP53_KO"),  # in that order
        ("sgNon-Targeting_3", {"strip_prefixes": ["sg"], "strip_suffix_regex": r"_\d+"}, "NTC"),
        ("sg", {"strip_prefixes": ["sg"]}, "sg"),  # nothing would be left
        ("_1", {"strip_suffix_regex": r"_\d"}, "_1"),
        ("CTRL", {}, "NTC"),
        (" control ", {}, "NTC"),
        ("Scrambled", {"canonical_control": "control"}, "control"),
        ("ctrl", {"control_aliases": ["AAVS1"]}, "ctrl"),  # instead of the usual ones
        ("aavs1", {"control_aliases": ["AAVS1"]}, "NTC"),
        ("TP53", {"strip_prefixes": "TP"}, "53"),  # one text is one prefix
    ],
)
def test_rules(label, rules, wanted):
    assert made([label], **rules).tolist() == [wanted]


def test_every_usual_alias_in_any_case():
    assert set(made([*CONTROL_ALIASES, *map(str.upper, CONTROL_ALIASES)])) == {"NTC"}


def test_categoricals_stay_so_and_those_that_become_equal_become_one():
    labels = pd.Categorical(["b_1", None, "b_2", "a", "ctrl"], ["unused", "b_2", "ctrl", "b_1", "a"], ordered=True)
    found = made(labels, strip_suffix_regex=r"_\d")
    assert found.cat.categories.tolist() == ["unused", "b", "NTC", "a"]
    assert found.cat.ordered
    assert found.tolist() == ["b", np.nan, "b", "a", "NTC"]
    assert found.index.tolist() == ["c0", "c1", "c2", "c3", "c4"]
    assert found.name == "guide"


def test_missing_text_stays_missing():
    found = made(["ctrl", None, "x"])
    assert found.tolist()[::2] == ["NTC", "x"]
    assert found.isna().tolist() == [False, True, False]


@pytest.mark.parametrize("labels", [[1, 2], [True, False], pd.Categorical([1, 2])])
def test_numbers_are_no_labels(labels):
    with pytest.raises(LabelsError, match="no labels"):
        made(labels)


def test_wrong_arguments():
    with pytest.raises(ConfigError, match=r"'\[' is no regular expression"):
        made(["a"], strip_suffix_regex="[")
    with pytest.raises(ConfigError, match="canonical_control is empty"):
        made(["a"], canonical_control="")
    with pytest.raises(NoColumnError, match="no column 'guid'"):
        normalise_perturbation_labels(cells(["a"]), "guid", inplace=False)
    with pytest.raises(TypeError, match="in memory"):
        normalise_perturbation_labels(cells(["a"]), "guide")
    with pytest.raises(NoFileError):
        normalise_perturbation_labels("/nowhere/a.h5ad", "guide")


LABELS = st.lists(st.one_of(st.none(), st.sampled_from([*CONTROL_ALIASES, "NTC", "TP53", "sgTP53", "A_1"])), min_size=1)


@given(LABELS, st.booleans())
def test_normalising_again_changes_nothing(labels, categorical):
    rules = label_rules(None, None, None, None, "NTC")
    values = pd.Series(pd.Categorical(labels) if categorical else labels, dtype=None if categorical else object)
    once = map_labels(values, rules.apply, "here")
    pd.testing.assert_series_equal(map_labels(once, rules.apply, "here"), once)


@given(st.text(), st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_where_nothing_more_can_be_taken_off_normalising_again_changes_nothing(label, prefixes, suffixes):
    rules = label_rules(prefixes, suffixes, None, None, "NTC")
    once = rules.apply(label)
    assert bool(once) == bool(label)
    if not (once.startswith(tuple(rules.prefixes)) or once.endswith(tuple(rules.suffixes))):
        assert rules.apply(once) == once


@given(LABELS)
def test_text_and_categories_become_the_same(labels):
    apply = label_rules(["sg"], None, r"_\d", None, "NTC").apply
    text = map_labels(pd.Series(labels, dtype=object), apply, "here")
    coded = map_labels(pd.Series(pd.Categorical(labels)), apply, "here")
    assert text.fillna("none").tolist() == coded.astype(object).fillna("none").tolist()


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("column", ["guide", "text"])
def test_in_place_the_column_alone_changes(screen, layout, column):
    path = screen(layout)
    before = anndata.read_h5ad(path)
    wanted = normalise_perturbation_labels(path, column, strip_suffix_regex=r"_\d", inplace=False)
    assert normalise_perturbation_labels(path, column, strip_suffix_regex=r"_\d") is None
    after = anndata.read_h5ad(path)
    assert_same_cells(after, before, but=[f"obs.{column}"])
    pd.testing.assert_series_equal(after.obs[column], wanted, check_names=False)
    assert after.obs.columns.tolist() == before.obs.columns.tolist()
    assert after.obs["dose"].cat.ordered


def test_an_ordered_column_stays_ordered_in_the_file(screen):
    path = screen()
    normalise_perturbation_labels(path, "dose", strip_prefixes=["hi"])
    assert anndata.read_h5ad(path).obs["dose"].cat.categories.tolist() == ["low", "mid", "gh"]
    assert anndata.read_h5ad(path).obs["dose"].cat.ordered


@pytest.mark.parametrize("legacy", ["0.6", "0.7"])
@pytest.mark.filterwarnings("ignore::Warning:anndata", "ignore::FutureWarning", "ignore:Element:Warning")
def test_old_files_are_changed_and_stay_readable(tmp_path, legacy):
    path = write_h5ad_variant(tmp_path / "old.h5ad", sample_counts(40, 5), legacy=legacy, where="raw")
    before = anndata.read_h5ad(path)
    normalise_perturbation_labels(path, "condition", strip_suffixes=[", 6 h"])
    after = anndata.read_h5ad(path)
    assert after.obs["condition"].cat.categories.tolist() == ["NTC", "stimulated"]
    assert (after.obs["condition"].isna() == before.obs["condition"].isna()).all()
    for column in before.obs.columns.drop("condition"):
        pd.testing.assert_series_equal(after.obs[column], before.obs[column])
    pd.testing.assert_frame_equal(after.var, before.var)
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(after.raw.X.toarray(), before.raw.X.toarray())
    assert normalise_perturbation_labels(path, "condition", inplace=False).tolist() == after.obs["condition"].tolist()
    assert set(after.uns) == set(before.uns)
    with h5py.File(path) as file:
        assert "condition" not in file["obs"].get("__categories", ())  # where 0.7 has labels


def test_without_a_change_the_file_is_not_touched(screen):
    path = screen(change=lambda cells: cells.obs.__setitem__("only", ["TP53"] * 60))
    before = path.stat()
    normalise_perturbation_labels(path, "only")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_when_writing_fails_the_file_is_as_it_was(screen, monkeypatch):
    path = screen()
    before = path.read_bytes()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(edit, "put", fail)
    with pytest.raises(ConfigError, match="no space left"):
        normalise_perturbation_labels(path, "guide", canonical_control="ctrl")
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_sorting_noted_goes_with_the_labels_it_was_about(screen):
    path = sort_by_perturbation(screen(), "guide")
    normalise_perturbation_labels(path, "text", strip_suffix_regex=r"_\d")
    assert anndata.read_h5ad(path).uns["sorting_metadata"]["sorted_by"] == "guide"
    normalise_perturbation_labels(path, "guide", strip_suffix_regex=r"_\d")
    assert "sorting_metadata" not in anndata.read_h5ad(path).uns


def test_a_column_is_written_compressed_and_its_matrix_stays_byte_for_byte(screen):
    path = screen()
    with h5py.File(path) as file:
        data = file["X/data"].id
        before = data.get_offset(), data.get_storage_size()
    normalise_perturbation_labels(path, "guide", canonical_control="ctrl")
    with h5py.File(path) as file:
        assert (file["X/data"].id.get_offset(), file["X/data"].id.get_storage_size()) == before
        assert file["obs/guide/codes"].compression == "gzip"
