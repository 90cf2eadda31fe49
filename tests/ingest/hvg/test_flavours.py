"""Choosing as arithmetic: ties, unseen genes, few genes, batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.hvg.choice import in_order
from ingest.hvg.flavours import by_dispersion, by_normalised_dispersion, normalised_dispersion
from ingest.hvg.seurat_v3 import by_standardised_variance, fit_trend
from ingest.hvg.sums import Moments

NAN = float("nan")


def moments(dispersions, *, detected=None, n_cells=1_000) -> Moments:
    """Return moments with mean 2 and these dispersions."""
    values = np.array(dispersions, np.float64)
    found = np.full(len(values), 900) if detected is None else np.array(detected)
    return Moments(n_cells, found, np.full(len(values), 2.0), 2 * values)


@given(st.lists(st.sampled_from([NAN, 0.0, 1.0, 2.5, -1.0]), min_size=1, max_size=12))
def test_order_is_from_high_to_low_ties_as_they_stand_unknown_last(score):
    order = in_order(np.array(score)).tolist()
    expected = sorted(range(len(score)), key=lambda at: (np.isnan(score[at]), -np.nan_to_num(score[at]), at))
    assert order == expected


def test_dispersion_leaves_out_genes_seen_in_too_few_cells():
    of = moments([9, 8, 7, 6], detected=[0, 9, 10, 500])
    assert by_dispersion([of], n_hvgs=4, min_cells_pct=1).genes.tolist() == [2, 3]
    assert by_dispersion([of], n_hvgs=4, min_cells_pct=0.9).genes.tolist() == [1, 2, 3]
    assert by_dispersion([of], n_hvgs=4, min_cells_pct=0).genes.tolist() == [1, 2, 3]  # unseen is not variable
    assert by_dispersion([of], n_hvgs=1, min_cells_pct=0).genes.tolist() == [1]
    assert by_dispersion([of], n_hvgs=1, min_cells_pct=100).genes.tolist() == []


def test_dispersion_takes_exactly_so_many_and_of_ties_the_first():
    assert by_dispersion([moments([3, 5, 3, 5, 3])], n_hvgs=3, min_cells_pct=0).genes.tolist() == [1, 3, 0]


def test_dispersion_over_batches_counts_batches_before_means():
    one, other = moments([9, 5, 4, 1]), moments([1, 5, 4, 3], detected=[900, 900, 900, 0])
    choice = by_dispersion([one, other], n_hvgs=2, min_cells_pct=0.1)
    # The first of each: (0, 1) and (1, 2).
    assert choice.n_batches.tolist() == [1, 2, 1, 0]
    assert choice.genes.tolist() == [1, 0]
    assert choice.score.tolist() == [5, 5, 4, 1]


def test_cell_ranger_has_bins_where_many_means_are_equal():
    """scanpy refuses these: a tenth of the genes and more have no counts."""
    mean = np.array([0.0] * 10 + [1.0] * 10 + list(range(2, 12)), np.float64)
    variance = np.concatenate([np.zeros(10), np.linspace(1, 2, 10), np.linspace(4, 9, 10)])
    scores = normalised_dispersion(mean, variance, "cell_ranger")
    assert np.isfinite(scores[10:20]).all()
    assert scores[19] > scores[10]


def test_seurat_gives_the_only_gene_of_a_bin_one():
    mean, variance = np.array([1.0, 1.0, 1.0, 90.0]), np.array([1.0, 2.0, 4.0, 300.0])
    scores = normalised_dispersion(mean, variance, "seurat")
    assert scores[3] == 1
    assert scores[:3] == pytest.approx([-1, 0, 1])


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger"])
def test_nothing_is_chosen_where_nothing_varies(flavour):
    still = Moments(5, np.zeros(4, np.int64), np.zeros(4), np.zeros(4))
    assert by_normalised_dispersion([still], n_hvgs=2, flavour=flavour).genes.tolist() == []
    over_two = by_normalised_dispersion([still, still], n_hvgs=2, flavour=flavour, genes=["b", "a", "d", "c"])
    assert over_two.genes.tolist() == [1, 0]  # none is better than another: by id


def test_a_batch_of_one_cell_has_no_say():
    lone = Moments(1, np.array([1, 1, 0]), np.array([1.0, 2.0, 0.0]), np.full(3, NAN))
    choice = by_dispersion([moments([1, 3, 2]), lone], n_hvgs=2, min_cells_pct=0)
    assert choice.genes.tolist() == [1, 2]


def test_standardised_variance_over_batches_goes_by_median_rank():
    scores = [np.array([5.0, 4, 3, 1]), np.array([1.0, 5, 4, 3])]
    choice = by_standardised_variance(scores, n_hvgs=2)
    assert choice.rank.tolist()[:3] == [0, 0.5, 1]
    assert choice.n_batches.tolist() == [1, 2, 1, 0]
    assert choice.genes.tolist() == [0, 1]


def test_no_trend_is_an_error_that_says_where():
    few = Moments(2, np.array([1, 2]), np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    with pytest.raises(
        ConfigError, match="no trend of variance over mean in donor 'x': 2 cells with 1 genes"
    ) as caught:
        fit_trend(few, where="donor 'x'")
    assert caught.value.kind == "no-trend"
