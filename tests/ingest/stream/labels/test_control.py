from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import LabelsError
from ingest.stream import resolve_control_label


@pytest.mark.parametrize(
    ("labels", "control"),
    [
        (["TP53", "ctrl", "control"], "ctrl"),
        (["TP53", "Control", "NTC"], "Control"),
        (["TP53", "NonTarget", "ntc"], "NonTarget"),
        (["TP53", "non-target"], "non-target"),
        (["TP53", "NON_TARGET"], "NON_TARGET"),
        (["TP53", "NTC"], "NTC"),
        (["TP53", "sgCtrl_2", "sgCtrl_1"], "sgCtrl_1"),
        (["TP53", "non-targeting"], "non-targeting"),
        (["TP53", "NTC_7", "NTC_3"], "NTC_3"),
        (["TP53", "negative control", "NTC_3"], "negative control"),
        (["TP53", "a control", "ntc"], "ntc"),  # an exact one wins
        (["TP53", "Non Targeting"], "Non Targeting"),
        (["TP53", "targeting none"], "targeting none"),
        (["TP53", None, float("nan"), "ctrl"], "ctrl"),
        ([1, 2, "ctrl"], "ctrl"),
    ],
)
def test_the_label_that_says_control(labels, control):
    assert resolve_control_label(labels, None, verbose=False) == control


@pytest.mark.parametrize("labels", [["TP53", "KRAS"], ["NTCP", "TP53"], ["target 1"], [None], []])
def test_without_one_it_is_an_error_that_shows_the_labels(labels):
    with pytest.raises(LabelsError, match="says control") as caught:
        resolve_control_label(labels, None)
    assert isinstance(caught.value, ValueError)
    assert caught.value.kind == "no-control-label"


def test_the_given_label_has_to_be_there():
    assert resolve_control_label(["KRAS", "x"], "x") == "x"
    with pytest.raises(LabelsError, match="no cell has the label 'kras'") as caught:
        resolve_control_label(["KRAS2", "TP53", "krass"], "kras")
    assert "krass" in caught.value.hint


def test_any_kind_of_labels_is_taken():
    labels = ["TP53", "ctrl", "TP53"]
    for given_as in (pd.Series(labels), pd.Categorical(labels), pd.Index(labels), iter(labels)):
        assert resolve_control_label(given_as, None, verbose=False) == "ctrl"


def test_verbose_says_which_on_stderr(capsys):
    resolve_control_label(["NTC_1", "NTC_2", "A"], None)
    said = capsys.readouterr()
    assert said.out == ""
    assert "'NTC_1' (of 2: 'NTC_1', 'NTC_2')" in said.err
    resolve_control_label(["NTC_1", "A"], None, verbose=False)
    assert capsys.readouterr().err == ""


@given(st.lists(st.sampled_from(["ctrl", "Control", "NTC_1", "NTC_2", "non x target", "TP53", "KRAS"]), min_size=1))
def test_order_and_repetition_do_not_matter(labels):
    def found(texts):
        try:
            return resolve_control_label(texts, None, verbose=False)
        except LabelsError:
            return None

    assert found(labels) == found(sorted(set(labels), reverse=True))
    assert found(labels) in {*labels, None}
