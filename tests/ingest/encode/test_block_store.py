from __future__ import annotations

import numpy as np

from ingest.encode.block_store import BlockStore


def test_blocks_come_back_in_order_from_shelves_and_beside_them():
    rng = np.random.default_rng(0)
    blocks = [rng.bytes(int(size)) for size in rng.integers(1, 900_000, 90)]
    store = BlockStore()
    for number, block in enumerate(blocks, start=1):
        store.append(block)
        assert len(store) == number
        assert store.nbytes == sum(map(len, blocks[:number]))
    assert list(store) == blocks
    assert list(store.drain()) == blocks
    assert len(store) == store.nbytes == 0
    assert list(store.drain()) == []
