"""A loader that is stopped goes on with the exact next cell, whoever reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.finish import finish
from ingest.load.dataset import open_chunks
from ingest.load.torch.create import create_dataloader
from ingest.testing.damage import DamageableDataset
from ingest.testing.examples import examples
from ingest.testing.shelf import KINDS, make_blocky

N = 106
OPTIONS = {"batch_size": 10, "block_cells": 3, "window_cells": 30, "seed": 2}


def names_of(loader):
    return [metadata["cell_id"] for _, metadata in loader]


def taken(loader, n):
    """Take `n` batches and leave."""
    found = []
    if n:
        for number, (_, metadata) in enumerate(loader, 1):
            found.append(metadata["cell_id"])
            if number == n:
                break
    return found


@pytest.fixture(scope="module")
def opened(dest):
    with open_chunks(dest, threads=1) as cells:
        yield cells


@pytest.fixture(scope="module")
def epochs(opened):
    """Return the names of three epochs that nobody interrupted, batch by batch."""
    loader = create_dataloader(opened, **OPTIONS)
    return [names_of(loader) for _ in range(3)]


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("at", range(12))
def test_at_every_batch(opened, epochs, epoch, at):
    loader = create_dataloader(opened, **OPTIONS)
    for _ in range(epoch):
        names_of(loader)
    assert taken(loader, at) == epochs[epoch][:at]
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = create_dataloader(opened, **OPTIONS)
    resumed.load_state_dict(state)
    assert names_of(resumed) == epochs[epoch][at:]  # of a pass that has been delivered: nothing
    assert names_of(resumed) == epochs[epoch + 1]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_with_another_number_of_workers(opened, epochs, before, after, at):
    loader = create_dataloader(opened, **OPTIONS, num_workers=before)
    assert taken(loader, at) == epochs[0][:at]
    resumed = create_dataloader(opened, **OPTIONS, num_workers=after, prefetch=1)
    resumed.load_state_dict(loader.state_dict())
    assert names_of(resumed) == epochs[0][at:]


@settings(max_examples=examples(10))
@given(data=st.data(), weighted=st.booleans(), rank=st.integers(0, 1), drop_last=st.booleans())
def test_stopped_again_and_again(opened, data, weighted, rank, drop_last):
    options = {**OPTIONS, "drop_last": drop_last, "rank": rank, "world_size": 2, "window_cells": 20}
    if weighted:
        options |= {"balance": "tissue", "epoch_cells": 150}
    whole = names_of(create_dataloader(opened, **options))
    found, state = [], None
    while len(found) < len(whole):
        loader = create_dataloader(opened, **options, prefetch=data.draw(st.integers(0, 2)))
        if state is not None:
            loader.load_state_dict(state)
        found += taken(loader, data.draw(st.integers(1, 4)))
        state = loader.state_dict()
    assert found == whole


def test_the_loader_itself_goes_back(opened, epochs):
    loader = create_dataloader(opened, **OPTIONS)
    state = loader.state_dict()
    taken(loader, 4)
    later = loader.state_dict()
    loader.load_state_dict(state)
    assert names_of(loader) == epochs[0]
    loader.load_state_dict(later)
    assert (loader.epoch, names_of(loader)) == (0, epochs[0][4:])


def test_a_state_that_is_loaded_is_the_state(opened):
    loader = create_dataloader(opened, **OPTIONS)
    taken(loader, 4)
    state = loader.state_dict()
    other = create_dataloader(opened, **OPTIONS)
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_set_epoch_as_lightning_calls_it_keeps_the_place(opened, epochs):
    loader = create_dataloader(opened, **OPTIONS)
    names_of(loader)
    taken(loader, 4)
    resumed = create_dataloader(opened, **OPTIONS)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert names_of(resumed) == epochs[1][4:]
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(2)
    assert names_of(resumed) == epochs[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_pass_that_was_left_comes_the_next_epoch(opened, epochs, workers):
    """Nobody wants the same beginning again and again; whoever does says so."""
    loader = create_dataloader(opened, **OPTIONS, num_workers=workers, prefetch=2)
    assert taken(loader, 4) == epochs[0][:4]
    assert taken(loader, 5) == epochs[1][:5]
    assert names_of(loader) == epochs[2]
    for _ in range(2):
        loader.set_epoch(0)
        assert taken(loader, 3) == epochs[0][:3]
    loader.set_epoch(0)
    assert loader.state_dict()["batch"] == 0
    assert names_of(loader) == epochs[0]
    assert names_of(loader) == epochs[1]


def test_every_rank_goes_on_from_the_first_ones_state(opened):
    options = {**OPTIONS, "world_size": 2}
    whole = [names_of(create_dataloader(opened, **options, rank=rank)) for rank in range(2)]
    first = create_dataloader(opened, **options, rank=0)
    taken(first, 3)
    for rank in range(2):
        loader = create_dataloader(opened, **options, rank=rank)
        loader.load_state_dict(first.state_dict())
        assert names_of(loader) == whole[rank][3:]


def test_through_torch_save(opened, epochs, tmp_path):
    loader = create_dataloader(opened, **OPTIONS)
    taken(loader, 4)
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    resumed = create_dataloader(opened, **OPTIONS)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert names_of(resumed) == epochs[0][4:]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"seed": 3}, "seed 2 there, 3 here"),
        ({"batch_size": 11}, "batch_cells 10 there, 11 here"),
        ({"block_cells": 4}, "block_cells 3 there, 4 here"),
        ({"window_cells": 40}, "window_cells 30 there, 40 here"),
        ({"drop_last": True}, "drop_last False there, True here"),
        ({"shuffle": False}, "sampler Shuffled there, Sequential here"),
        ({"balance": "tissue"}, "sampler Shuffled there, Weighted here"),
        ({"rows": range(100)}, "cells None there, "),
        ({"where": "age > 2"}, "cells None there, "),
        ({"rank": 0, "world_size": 2}, "world_size 1 there, 2 here"),
    ],
    ids=str,
)
def test_a_state_of_another_order_is_refused_by_name(opened, changed, name):
    loader = create_dataloader(opened, **OPTIONS)
    taken(loader, 2)
    other = create_dataloader(opened, **{**OPTIONS, **changed})
    with pytest.raises(ConfigError, match=name) as raised:
        other.load_state_dict(loader.state_dict())
    assert raised.value.kind == "other-order"
    assert "num_workers" in raised.value.hint
    assert names_of(other) == names_of(create_dataloader(opened, **{**OPTIONS, **changed}))  # nothing was taken over


def test_other_weights_are_another_order(opened):
    one, two = (create_dataloader(opened, **OPTIONS, weights=np.linspace(a, 2, N)) for a in (0.5, 0.6))
    with pytest.raises(ConfigError, match="weights "):
        two.load_state_dict(one.state_dict())


def test_what_does_not_change_the_order_may_differ(opened, epochs, dest):
    loader = create_dataloader(opened, **OPTIONS)
    taken(loader, 3)
    other = create_dataloader(
        dest, **OPTIONS, threads=3, prefetch=3, form="ragged", genes=[1, 2], obs=["age"], cache_bytes=0
    )
    other.load_state_dict(loader.state_dict())
    assert names_of(other) == epochs[0][3:]


@pytest.mark.parametrize(
    "state",
    [{}, {"version": 2}, {"version": 1}, {"version": 1, "order": None, "epoch": 0, "batch": 0}],
    ids=str,
)
def test_what_is_no_state(opened, state):
    with pytest.raises(ConfigError, match="no state of a loader") as raised:
        create_dataloader(opened, **OPTIONS).load_state_dict(state)
    assert raised.value.kind == "bad-state"


@pytest.mark.parametrize(
    "changes", [{"batch": -1}, {"batch": 12}, {"batch": "three"}, {"epoch": -1}, {"epoch": None}], ids=str
)
def test_a_state_with_a_place_that_cannot_be(opened, changes):
    loader = create_dataloader(opened, **OPTIONS)
    with pytest.raises(ConfigError, match="no state") as raised:
        loader.load_state_dict({**loader.state_dict(), **changes})
    assert raised.value.kind == "bad-state"


def test_other_data_is_refused(shelf, opened):
    loader = create_dataloader(opened, **OPTIONS)
    for kind in ("float32-lz4", "h5-lz4"):
        with pytest.raises(ConfigError, match="datasets "):
            create_dataloader(shelf.made(kind), **OPTIONS).load_state_dict(loader.state_dict())
    with pytest.raises(ConfigError, match="datasets "):
        create_dataloader([shelf.made("float32-lz4"), shelf.made("float32-deflate")], **OPTIONS).load_state_dict(
            create_dataloader([shelf.made("float32-deflate"), shelf.made("float32-lz4")], **OPTIONS).state_dict()
        )


def test_a_copy_elsewhere_is_the_same_data(opened, epochs, damageable):
    loader = create_dataloader(opened, **OPTIONS)
    taken(loader, 4)
    moved = create_dataloader(damageable().path, **OPTIONS)
    moved.load_state_dict(loader.state_dict())
    assert names_of(moved) == epochs[0][4:]


def test_other_chunks_of_an_incomplete_dataset_are_other_data(shelf, tmp_path):
    """As many chunks and cells, but not the same ones."""
    found = []
    for missing in (1, 2):
        folder = tmp_path / str(missing)
        data = replace(KINDS["float32-deflate"], cells_per_chunk=20)
        make_blocky(str(folder), shelf.index("float32"), data)
        dest = DamageableDataset(folder)
        dest.chunk(missing).unlink()
        dest.receipt(missing).unlink()
        (folder / "_SUCCESS.json").unlink()
        finish(dest.open())
        found.append(create_dataloader(folder, **OPTIONS, allow_incomplete=True))
    one, two = found
    assert one.cells.n_cells == two.cells.n_cells
    assert names_of(one) != names_of(two)
    with pytest.raises(ConfigError, match="datasets "):
        two.load_state_dict(one.state_dict())


def test_a_dataset_that_has_grown_is_other_data(damageable):
    """More chunks since: a position among fewer cells means nothing."""
    dest = damageable()
    whole = shutil.copytree(dest.path, dest.path.with_name("whole"))
    dest.chunk(5).unlink()
    dest.receipt(5).unlink()
    (dest.path / "_SUCCESS.json").unlink()
    finish(dest.open())
    part = create_dataloader(dest.path, **OPTIONS, allow_incomplete=True)
    with pytest.raises(ConfigError, match="datasets "):
        create_dataloader(whole, **OPTIONS).load_state_dict(part.state_dict())
