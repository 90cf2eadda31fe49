"""Batches of an epoch: which cells, how many, what comes with them; the same from threads and from processes."""

from __future__ import annotations

import gc
import threading
from itertools import chain, pairwise

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.block import Counts
from ingest.errors import ConfigError, EmptySelectionError
from ingest.load.dataset import open_chunks
from ingest.load.torch.create import create_dataloader
from ingest.testing.examples import examples

N = 106


def names_of(loader):
    return [metadata["cell_id"] for _, metadata in loader]


def flat(batches):
    return list(chain.from_iterable(batches))


def check_batches(loader, plain, genes=slice(None)):
    """Look at every batch of an epoch, and return the numbers of its cells."""
    row_of = {name: row for row, name in enumerate(plain.names)}
    found = []
    for expression, metadata in loader:
        rows = [row_of[name] for name in metadata["cell_id"]]
        assert expression.dtype == torch.float32
        np.testing.assert_array_equal(expression.numpy(), plain.matrix[rows].toarray()[:, genes])
        found.append(rows)
    return found


@pytest.mark.parametrize("kind", ["float32-deflate", "uint16-lz4", "fractions-zstd", "int32-none", "h5-deflate"])
def test_an_epoch(shelf, kind):
    plain = shelf.plain(kind)
    plain.matrix.data = plain.matrix.data.astype(np.float32).astype(np.float64)
    loader = create_dataloader(shelf.made(kind), batch_size=20, block_cells=3, window_cells=40)
    for _ in range(2):
        rows = check_batches(loader, plain)
        assert [len(part) for part in rows] == [20, 20, 20, 20, 20, 6]
        assert sorted(flat(rows)) == list(range(N))
    assert len(loader) == 6
    assert loader.epoch == 2


@settings(max_examples=examples(10))
@given(
    batch_size=st.integers(1, 120),
    block_cells=st.integers(1, 50),
    window_cells=st.integers(1, 150),
    world_size=st.integers(1, 4),
    drop_last=st.booleans(),
    prefetch=st.integers(0, 3),
    chosen=st.none() | st.sets(st.integers(0, N - 1), min_size=1).map(sorted),
)
def test_every_cell_once_over_all_ranks(
    cells_once, plain, batch_size, block_cells, window_cells, world_size, drop_last, prefetch, chosen
):
    n = N if chosen is None else len(chosen)
    options = {"block_cells": block_cells, "window_cells": window_cells, "drop_last": drop_last, "prefetch": prefetch}

    def loader_of(rank):
        return create_dataloader(
            cells_once, batch_size, **options, rows=chosen, rank=rank, world_size=world_size, seed=n
        )

    largest = -(-n // world_size)
    if not drop_last and n // world_size < -(-largest // batch_size):
        with pytest.raises(ConfigError, match="cannot be shared"):
            names_of(loader_of(0))
        return
    ranks = [check_batches(loader_of(rank), plain) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(loader_of(0))}
    delivered = [row for batches in ranks for rows in batches for row in rows]
    if drop_last:
        assert len(delivered) == len(set(delivered)) == n // (batch_size * world_size) * batch_size * world_size
        assert set(delivered) <= set(range(N) if chosen is None else chosen)
    else:
        assert sorted(delivered) == (list(range(N)) if chosen is None else chosen)


@pytest.fixture(scope="module")
def cells_once(dest):
    with open_chunks(dest, threads=2) as opened:
        yield opened


def test_sequential(dest, plain):
    loader = create_dataloader(dest, 25, shuffle=False)
    assert flat(check_batches(loader, plain)) == list(range(N))
    assert flat(check_batches(loader, plain)) == list(range(N))


def test_rows_in_the_order_given(dest, plain):
    loader = create_dataloader(dest, 3, shuffle=False, rows=[100, 4, 55, 7, 8])
    assert flat(check_batches(loader, plain)) == [100, 4, 55, 7, 8]


def test_seeds_and_epochs(dest):
    def order(**options):
        return flat(names_of(create_dataloader(dest, 16, **options)))

    one = create_dataloader(dest, 16, seed=3)
    first, second = flat(names_of(one)), flat(names_of(one))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first == order(seed=3)
    assert first != order(seed=4)
    one.set_epoch(0)
    assert flat(names_of(one)) == first
    other = create_dataloader(dest, 16, seed=3)
    other.set_epoch(1)
    assert flat(names_of(other)) == second


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_do_not_change_the_order(dest, workers):
    options = {"batch_size": 10, "block_cells": 4, "window_cells": 20, "obs": ["tissue", "age"], "seed": 9}
    here, there = create_dataloader(dest, **options), create_dataloader(dest, **options, num_workers=workers)
    for _ in range(2):
        for (ours, mine), (theirs, yours) in zip(here, there, strict=True):
            assert torch.equal(ours, theirs)
            assert mine["cell_id"] == yours["cell_id"]
            assert all(torch.equal(mine[name], yours[name]) for name in ("tissue", "age", "experiment_id"))
    assert there.epoch == 2


def test_workers_that_are_spawned(dest, plain):
    options = {"batch_size": 30, "block_cells": 4, "window_cells": 30, "genes": [5, 1, 30]}
    loader = create_dataloader(dest, **options, num_workers=1, multiprocessing_context="spawn")
    assert check_batches(loader, plain, [5, 1, 30]) == check_batches(
        create_dataloader(dest, **options), plain, [5, 1, 30]
    )


def test_workers_of_a_loader_that_has_read_already(dest, plain):
    """Threads, files and locks of this process are of no use in one that is forked."""
    cells = open_chunks(dest, threads=3)
    cells.counts(range(N))
    running = iter(create_dataloader(cells, 10, window_cells=10, prefetch=3))
    next(running)
    loader = create_dataloader(cells, 10, window_cells=20, num_workers=2)
    assert sorted(flat(check_batches(loader, plain))) == list(range(N))
    assert len(list(running)) == 10


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def our_threads(before=()):
    """Return those that this project started, without those that other tests' datasets still have."""
    return [t for t in threading.enumerate() if t.name.startswith("cell-ingest") and t not in before]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 3])
@pytest.mark.sampled(3)
def test_a_loader_that_is_left_in_mid_epoch_leaves_nothing_behind(dest, workers, taken):
    before, threads = children(), our_threads()
    loader = create_dataloader(dest, 5, window_cells=5, num_workers=workers, prefetch=2, threads=3)
    for number, _ in enumerate(loader):
        if number == taken:
            break
    del loader, _
    gc.collect()
    for thread in our_threads(threads):
        thread.join(120)
    assert not our_threads(threads)
    assert not psutil.wait_procs([psutil.Process(pid) for pid in children() - before], timeout=120)[1]


def test_closing_ends_threads_and_the_next_read_begins_anew(dest, plain):
    before = our_threads()
    with open_chunks(dest, threads=3) as cells:
        cells.counts(range(N))
        assert our_threads(before)
        cells.close()
        for thread in our_threads(before):
            thread.join(120)
        assert not our_threads(before)
        assert sorted(flat(check_batches(create_dataloader(cells, 20), plain))) == list(range(N))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("form", ["dense", "csr", "ragged"])
def test_batches_that_are_kept_never_change(dest, plain, workers, form):
    """Buffers are used again, but never while anybody looks at them."""
    row_of = {name: row for row, name in enumerate(plain.names)}
    loader = create_dataloader(dest, 5, window_cells=10, block_cells=1, num_workers=workers, form=form)

    def dense(found):
        if form == "ragged":
            values, indices, lengths = found
            ends = [0, *lengths.cumsum(0).tolist()]
            rows = np.zeros((len(lengths), plain.matrix.shape[1]))
            for row, (low, high) in enumerate(pairwise(ends)):
                rows[row, indices[low:high]] = values[low:high]
            return rows
        return (found.to_dense() if form == "csr" else found).numpy()

    kept = []
    for _ in range(3):
        for found, metadata in loader:
            kept.append((found, [row_of[name] for name in metadata["cell_id"]]))
    assert len(kept) == 66
    for found, rows in kept:
        np.testing.assert_array_equal(dense(found), plain.matrix[rows].toarray())


def test_a_part_of_a_batch_that_is_kept_never_changes(dest, plain):
    loader = create_dataloader(dest, 5, window_cells=10, block_cells=1)
    row_of = {name: row for row, name in enumerate(plain.names)}
    takers = [lambda x: x[2], lambda x: x.numpy()[2], lambda x: x[1:4][1].detach().view(1, -1)[0], lambda x: x.T[:, 2]]
    kept = []
    for number, (found, metadata) in enumerate(loader):
        if len(found) > 2:
            kept.append((takers[number % 4](found), row_of[metadata["cell_id"][2]]))
        del found
    for part, row in kept:
        np.testing.assert_array_equal(np.asarray(part), plain.matrix[[row]].toarray()[0])


def test_buffers_are_used_again(dest):
    """Memory does not grow with the batches that went by."""
    loader = create_dataloader(dest, 5, window_cells=10, block_cells=1)
    addresses = set()
    for _ in range(5):
        for expression, _ in loader:
            addresses.add(expression.data_ptr())
    assert len(addresses) <= 4


def test_two_loaders_and_a_look_at_the_same_cells_at_once(dest, plain):
    cells = open_chunks(dest, threads=2)
    training = create_dataloader(cells, 7, window_cells=14, rows=range(80))
    checking = create_dataloader(cells, 9, window_cells=9, rows=range(80, N), form="csr")
    row_of = {name: row for row, name in enumerate(plain.names)}
    seen = []
    for ours, theirs in zip(training, checking, strict=False):
        for found, metadata in (ours, theirs):
            rows = [row_of[name] for name in metadata["cell_id"]]
            np.testing.assert_array_equal(found.to_dense().numpy(), plain.matrix[rows].toarray())
            seen += rows
        look = cells.counts([5, 6])
        assert look.data.sum() == plain.matrix[[5, 6]].sum()
    assert len(set(seen)) == len(seen)


def test_many_threads_read_the_same_cells(dest, plain):
    cells, wrong = open_chunks(dest, threads=2, cache_bytes=2000), []
    whole = plain.matrix.toarray()

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            rows, genes = rng.integers(0, N, 30), rng.permutation(40)[:25]
            counts = cells.counts(rows, genes=genes)
            found = np.zeros((30, 25))
            for row in range(30):
                part = slice(counts.indptr[row], counts.indptr[row + 1])
                found[row, counts.indices[part]] = counts.data[part]
            if not np.array_equal(found, whole[rows][:, genes]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Which cells


def test_where_accessions_and_rows_together(dest, plain):
    obs = plain.obs.reset_index()
    loader = create_dataloader(
        dest, 8, where="tissue == 'lung' and age > 1", include_srx_accessions=["SRX0", "SRX2"], rows=range(5, 90)
    )
    wanted = obs[(obs.tissue == "lung") & (obs.age > 1) & obs.SRX_accession.isin(["SRX0", "SRX2"])].index
    assert sorted(flat(check_batches(loader, plain))) == [row for row in wanted if 5 <= row < 90]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"where": "tisue == 'lung'"}, "tissue"),
        ({"where": "tissue = "}, "."),
        ({"include_srx_accessions": ["SRX77"]}, "SRX77"),
        ({"obs": ["tisue"]}, "tissue"),
        ({"obs": ["cell_id"]}, "always there"),
        ({"balance": "tisue"}, "tissue"),
        ({"balance": "tissue", "weights": np.ones(N)}, "give one"),
        ({"balance": "tissue", "shuffle": False}, "shuffle"),
        ({"epoch_cells": 5}, "goes with balance or weights"),
        ({"weights": np.ones(5)}, "weights for 106 cells"),
        ({"balance": "tissue", "epoch_cells": 0}, "at least one"),
        ({"batch_size": 0}, "batch_cells is 0"),
        ({"block_cells": 0}, "block_cells is 0"),
        ({"form": "sparse"}, "dense, csr, ragged"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"num_workers": 1, "prefetch": 0}, "prefetch=0"),
        ({"rank": 0}, "together"),
        ({"genes": ["x"]}, "x"),
        ({"rows": [N]}, "no cell 106|from 0 to 105"),
        ({"rows": [-1]}, "no cell -1|from 0 to 105"),
        ({"rows": [0.5]}, "by number"),
        ({"chunk_cache_size": -1}, "cannot be kept"),
        ({"treads": 2}, "treads is no setting"),
    ],
    ids=str,
)
def test_what_cannot_be(dest, options, match):
    with pytest.raises(ConfigError, match=match) as raised:
        create_dataloader(dest, **{"batch_size": 8, **options})
    assert "\n" not in str(raised.value)


def test_no_cell_is_left(dest):
    with pytest.raises(EmptySelectionError, match="no cell"):
        create_dataloader(dest, where="age > 100")
    with pytest.raises(EmptySelectionError, match="no cell"):
        create_dataloader(dest, rows=[1], where="age == 0")


def test_settings_of_what_is_open_already(cells):
    with pytest.raises(ConfigError, match="threads is for open_chunks"):
        create_dataloader(cells, threads=1)


def test_rows_as_a_mask(dest, plain):
    """As numpy and pandas people choose: ``obs.age > 3``."""
    mask = plain.obs.age.to_numpy() > 3
    loader = create_dataloader(dest, 8, rows=mask)
    assert sorted(flat(check_batches(loader, plain))) == np.flatnonzero(mask).tolist()


# How often


def test_balanced(dest, plain):
    loader = create_dataloader(dest, 16, balance="tissue", epoch_cells=300, obs=["tissue"])
    rows = flat(check_batches(loader, plain))
    assert len(rows) == 300
    times = plain.obs.tissue.iloc[rows].value_counts(dropna=False).to_dict()
    assert set(times) == {"brain", "liver", "lung"}  # cells without one: none
    assert all(abs(found - 100) <= 5 for found in times.values())


def test_balanced_by_numbers(dest, plain):
    loader = create_dataloader(dest, 16, balance="age", epoch_cells=700)
    times = plain.obs.age.iloc[flat(check_batches(loader, plain))].value_counts()
    assert len(times) == 7
    assert (abs(times - 100) <= 5).all()


def test_balanced_within_what_is_chosen(dest, plain):
    loader = create_dataloader(
        dest, 16, balance="tissue", where="tissue in ['lung', 'brain'] and age < 4", epoch_cells=80
    )
    times = plain.obs.iloc[flat(check_batches(loader, plain))]
    found = times.tissue.value_counts().to_dict()
    assert set(found) == {"brain", "lung"}
    assert abs(found["brain"] - 40) <= 2
    assert times.age.max() == 3


@pytest.mark.parametrize("length", ["of all cells", "of the chosen"])
def test_weights(dest, plain, length):
    weights = np.zeros(N)
    weights[[10, 20, 30]] = 1, 2, 5
    chosen = np.array([10, 20, 30, 40])
    given_weights = weights if length == "of all cells" else weights[chosen]
    loader = create_dataloader(dest, 16, weights=given_weights, rows=chosen, epoch_cells=80)
    rows = flat(check_batches(loader, plain))
    assert np.bincount(rows, minlength=N)[chosen].tolist() == [10, 20, 50, 0]


def test_weighted_workers_and_ranks(dest):
    options = {"batch_size": 16, "balance": "tissue", "epoch_cells": 200, "window_cells": 32, "block_cells": 2}
    for rank in range(2):
        one = create_dataloader(dest, **options, rank=rank, world_size=2)
        two = create_dataloader(dest, **options, rank=rank, world_size=2, num_workers=2)
        assert names_of(one) == names_of(two)


# What comes with it


def test_metadata(shelf):
    for kind in ("float32-deflate", "h5-lz4"):
        plain = shelf.plain(kind)
        columns = ["tissue", "cell_type", "age", "score", "primary", "note"]
        loader = create_dataloader(shelf.made(kind), 16, obs=columns)
        assert set(loader.categories) == {"experiment_id", "tissue", "cell_type", "note"}
        assert loader.categories["tissue"] == ("brain", "liver", "lung")
        for _, metadata in loader:
            assert set(metadata) == {"cell_id", "experiment_id", *columns}
            obs = plain.obs.loc[metadata["cell_id"]]
            for column in columns:
                codes = metadata[column]
                assert isinstance(codes, torch.Tensor)
                values = codes.tolist()
                if column in loader.categories:
                    assert codes.dtype == torch.int64
                    values = [loader.categories[column][code] if code >= 0 else None for code in values]
                assert values == obs[column].tolist()
            experiments = [loader.categories["experiment_id"][code] for code in metadata["experiment_id"].tolist()]
            assert experiments == obs.SRX_accession.tolist()


class Doubled:
    """A transform that works in place, and keeps what it was given."""

    def __init__(self):
        self.totals = []

    def __call__(self, counts, totals=None):
        self.totals.append(totals)
        counts.data[:] *= 2
        return counts


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_may_work_in_place(dest, plain, workers):
    """Also where blocks come from the cache: what is cached is not what it works in."""
    loader = create_dataloader(dest, 10, window_cells=20, transform=Doubled(), num_workers=workers, cache_bytes=1 << 20)
    row_of = {name: row for row, name in enumerate(plain.names)}
    for _ in range(3):
        for expression, metadata in loader:
            rows = [row_of[name] for name in metadata["cell_id"]]
            np.testing.assert_array_equal(expression.numpy(), 2 * plain.matrix[rows].toarray())


def test_a_transform_is_told_the_sum_over_all_genes_where_some_are_read(dest, plain):
    whole = Doubled()
    list(create_dataloader(dest, N, shuffle=False, transform=whole, genes=[3, 4]))
    np.testing.assert_array_equal(whole.totals[0], plain.matrix.sum(axis=1).A1)
    all_genes = Doubled()
    list(create_dataloader(dest, N, shuffle=False, transform=all_genes))
    assert all_genes.totals == [None]


def test_a_transform_that_fails_says_so(dest):
    class Broken:
        def __call__(self, counts, totals=None):  # noqa: ARG002 # the Protocol's
            raise ZeroDivisionError("of the transform")

    for workers in (0, 1):
        with pytest.raises(ZeroDivisionError, match="of the transform"):
            list(create_dataloader(dest, 10, transform=Broken(), num_workers=workers))


def test_tokens(dest, plain):
    class Tokens:
        def __call__(self, counts, totals=None):  # noqa: ARG002 # the Protocol's
            return Counts(counts.indptr, counts.indices, (counts.data + 1).astype(np.int32), counts.n_genes)

    whole = plain.matrix.toarray()
    wanted = torch.from_numpy(np.where(whole > 0, whole + 1, 0)).long()
    for workers in (0, 1):
        [(expression, _)] = create_dataloader(dest, N, shuffle=False, transform=Tokens(), num_workers=workers)
        assert expression.dtype == torch.int64
        assert torch.equal(expression, wanted)


def test_more_workers_than_windows(dest, plain):
    loader = create_dataloader(dest, 200, num_workers=2)
    assert sorted(flat(check_batches(loader, plain))) == list(range(N))


def test_distributed_ranks_are_asked_when_an_epoch_begins(dest, monkeypatch):
    loader = create_dataloader(dest, 10)
    assert len(loader) == 11
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert len(loader) == 6
    other = create_dataloader(dest, 10, rank=0, world_size=2)
    delivered = flat(names_of(loader)) + flat(names_of(other))
    assert len(delivered) == len(set(delivered)) == N
