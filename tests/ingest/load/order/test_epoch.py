"""Every cell once an epoch, whatever the numbers; ranks in step; any window found without those before it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.load.order.epoch import Batching, Blocks, EpochOrder, share_of
from ingest.load.order.samplers import Sequential, Shuffled
from ingest.testing.examples import examples

SEEDS = st.integers(0, 1 << 40)


def batches_of(order: EpochOrder) -> list[np.ndarray]:
    """Return the rows of each batch of an epoch, and check that windows are cut as they say."""
    found = []
    for number, window in enumerate(order.windows()):
        assert window.number == number
        assert window.first_batch == len(found)
        assert window.rows.dtype == np.int64
        assert window.ends[-1] == len(window.rows)
        found += [window.rows[low:high] for low, high in window.batches()]
        assert all(order.window_of(window.first_batch + at) == number for at in range(len(window.ends)))
    return found


@st.composite
def samplers(draw):
    n_cells = draw(st.integers(1, 400))
    batching = Batching(
        draw(st.integers(1, 50)), draw(st.integers(1, 70)), draw(st.integers(1, 150)), draw(st.booleans())
    )
    cells = draw(st.none() | st.sets(st.integers(0, n_cells - 1), min_size=1).map(lambda s: np.array(sorted(s))))
    kind = draw(st.sampled_from([Shuffled, Sequential]))
    return kind(n_cells, batching, draw(SEEDS), cells)


def in_step(n_cells, size, world_size):
    """Whether the ranks with the fewest cells can make as many batches as those with the most."""
    return n_cells // world_size >= math.ceil(math.ceil(n_cells / world_size) / size)


@given(sampler=samplers(), world_size=st.integers(1, 7), epoch=st.integers(0, 1000))
def test_every_cell_once_and_ranks_in_step(sampler, world_size, epoch):
    wanted = np.arange(sampler.n_cells) if sampler.cells is None else sampler.cells
    size, drop_last = sampler.batching.batch_cells, sampler.batching.drop_last
    if not drop_last and not in_step(len(wanted), size, world_size):
        with pytest.raises(ConfigError, match="cannot be shared") as raised:
            sampler.epoch(epoch, world_size=world_size)
        assert raised.value.kind == "uneven-ranks"
        return
    orders = [sampler.epoch(epoch, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [batches_of(order) for order in orders]
    assert {len(found) for found in batches} == {orders[0].n_batches}
    assert [sum(map(len, found)) for found in batches] == [order.n_cells for order in orders]
    delivered = np.concatenate([rows for found in batches for rows in found] or [np.empty(0, np.int64)])
    assert len(np.unique(delivered)) == len(delivered)
    if drop_last:
        assert {len(rows) for found in batches for rows in found} <= {size}
        assert len(delivered) == len(wanted) // (size * world_size) * size * world_size
        assert np.isin(delivered, wanted).all()
    else:
        assert sorted(delivered.tolist()) == wanted.tolist()
        assert all(0 < len(rows) <= size for found in batches for rows in found)
        assert all(len(rows) == size for found in batches for rows in found[:-2])
    if isinstance(sampler, Sequential):
        assert (np.diff(delivered) > 0).all()


@settings(max_examples=examples(16))
@given(sampler=samplers(), world_size=st.integers(1, 3), at=st.floats(0, 1))
def test_any_window_is_found_without_those_before_it(sampler, world_size, at):
    try:
        order = sampler.epoch(3, rank=world_size - 1, world_size=world_size)
        again = sampler.epoch(3, rank=world_size - 1, world_size=world_size)
    except ConfigError:
        assume(False)
    whole = [window.rows.tolist() for window in order.windows()]
    assert len(whole) == order.n_windows
    for number in reversed(range(order.n_windows)):
        assert again.window(number).rows.tolist() == whole[number]
    first = round(at * order.n_windows)
    assert [window.rows.tolist() for window in order.windows(first)] == whole[first:]


@given(
    n_cells=st.integers(1, 300),
    block_cells=st.integers(1, 60),
    seed=SEEDS,
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_places_do_not_depend_on_where_they_are_cut(n_cells, block_cells, seed, cuts):
    blocks = Blocks.shuffled(n_cells, block_cells, seed, 0)
    whole = blocks.places(0, n_cells)
    assert sorted(whole.tolist()) == list(range(n_cells))
    edges = sorted({0, n_cells, *(cut for cut in cuts if cut <= n_cells)})
    pieces = [blocks.places(low, high) for low, high in pairwise(edges)]
    assert np.concatenate(pieces).tolist() == whole.tolist()


@given(n_cells=st.integers(1, 300), block_cells=st.integers(1, 60), seed=SEEDS)
def test_neighbours_stay_together(n_cells, block_cells, seed):
    places = Blocks.shuffled(n_cells, block_cells, seed, 0).places(0, n_cells)
    breaks = np.flatnonzero(np.diff(places) != 1)
    assert len(breaks) <= -(-n_cells // block_cells) - 1
    assert (places[np.append(0, breaks + 1)] % block_cells == 0).all()


def test_a_window_has_whole_batches_and_shuffles_all_of_its_cells():
    order = Shuffled(10_000, Batching(100, 10, 950)).epoch(0)
    window = order.window(0)
    assert window.ends == tuple(range(100, 1001, 100))
    # Cells of one block are spread over the window's batches, not handed over as neighbours.
    batch_of = np.repeat(np.arange(10), 100)[np.argsort(window.rows)]
    spread = [len(set(part)) for part in batch_of.reshape(100, 10)]
    assert np.mean(spread) > 5
    assert np.mean(np.abs(np.diff(window.rows)) == 1) < 0.05


def test_blocks_come_from_everywhere():
    rows = Shuffled(100_000, Batching(64, 4, 1024)).epoch(0).window(0).rows
    deciles = np.bincount(rows // 10_000, minlength=10)
    assert (deciles > 0).all()
    assert abs(np.mean(rows) - 50_000) < 12_000


@given(seed=SEEDS, epoch=st.integers(0, 100), rank=st.integers(0, 2))
def test_the_same_is_the_same_and_another_is_another(seed, epoch, rank):
    def rows(seed, epoch, rank):
        order = Shuffled(3_000, Batching(50, 8, 400), seed).epoch(epoch, rank=rank, world_size=3)
        return np.concatenate([window.rows for window in order.windows()]).tolist()

    one = rows(seed, epoch, rank)
    assert one == rows(seed, epoch, rank)
    assert one != rows(seed, epoch + 1, rank)
    assert one != rows(seed + 1, epoch, rank)
    assert set(one).isdisjoint(rows(seed, epoch, (rank + 1) % 3))


def test_windows_of_an_epoch_are_not_shuffled_alike():
    order = Shuffled(800, Batching(100, 800, 100)).epoch(0)
    first, second = order.window(0).rows, order.window(1).rows
    assert (first - first.min()).tolist() != (second - second.min()).tolist()


def test_the_order_is_the_same_in_every_version():
    """Written down: a change of it ends every training that is under way, and has to be meant."""
    order = Shuffled(20, Batching(4, 3, 8), seed=5).epoch(2)
    found = np.concatenate([window.rows for window in order.windows()]).tolist()
    assert found == [7, 15, 8, 6, 17, 19, 16, 18, 5, 9, 10, 3, 4, 0, 1, 2, 11, 13, 12, 14]


def test_another_process_has_the_same_order():
    script = (
        "from ingest.load.order.epoch import Batching; from ingest.load.order.samplers import Shuffled; "
        "print([w.rows.tolist() for w in Shuffled(500, Batching(10, 3, 40), 11).epoch(6).windows()])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    order = Shuffled(500, Batching(10, 3, 40), 11).epoch(6)
    assert done.stdout.strip() == str([window.rows.tolist() for window in order.windows()])


@pytest.mark.parametrize(
    ("n_cells", "size", "world_size", "drop_last", "shares", "n_batches"),
    [
        (10, 4, 1, False, [(0, 10)], 3),
        (10, 4, 1, True, [(0, 8)], 2),
        (9, 4, 2, False, [(0, 4), (4, 9)], 2),  # the first halves its four
        (9, 4, 2, True, [(0, 4), (4, 8)], 1),
        (3, 4, 2, True, [(0, 0), (0, 0)], 0),
    ],
)
def test_shares(n_cells, size, world_size, drop_last, shares, n_batches):
    batching = Batching(size, drop_last=drop_last)
    found = [share_of(n_cells, batching, rank, world_size) for rank in range(world_size)]
    assert found == [(*share, n_batches) for share in shares]


@pytest.mark.parametrize("rank", [-1, 2])
def test_no_such_rank(rank):
    with pytest.raises(ConfigError, match="ranks are numbered from 0") as raised:
        share_of(10, Batching(2), rank, 2)
    assert raised.value.kind == "bad-rank"


def test_ranks_that_cannot_be_in_step():
    with pytest.raises(ConfigError, match="3 cells in batches of 1 cannot be shared by 2 ranks") as raised:
        share_of(3, Batching(1), 0, 2)
    assert (raised.value.kind, "drop_last" in raised.value.hint) == ("uneven-ranks", True)


@pytest.mark.parametrize("field", ["batch_cells", "block_cells", "window_cells"])
def test_at_least_one_cell(field):
    with pytest.raises(ConfigError, match=f"{field} is 0"):
        Batching(**{"batch_cells": 1, field: 0})
