"""Which blocks are made from their values alone, and that it makes no difference to whoever reads them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ingest.encode.compressors import Compressors
from ingest.encode.filters import choose_filter


@pytest.mark.parametrize(
    ("codec", "level", "length", "n", "most_bytes", "sparse"),
    [
        ("deflate", 1, 4_096, 1_024, 1 << 20, True),
        ("deflate", 2, 4_096, 0, 1 << 20, True),
        ("deflate", 1, 4_096, 1_025, 1 << 20, False),  # dense enough for the dense bytes
        ("deflate", 1, 2_047, 10, 1 << 20, False),  # short
        ("deflate", 1, 4_096, 10, 8_192, True),
        ("deflate", 1, 4_096, 10, 8_191, False),  # its checksum might not fit 64 bits
        ("deflate", 3, 4_096, 10, 1 << 20, False),  # strings are looked for
        ("zstd", 1, 4_096, 10, 1 << 20, False),
        ("lz4", 1, 4_096, 10, 1 << 20, False),
    ],
)
def test_sparse_blocks_are_made_from_their_values(codec, level, length, n, most_bytes, sparse, monkeypatch):
    monkeypatch.setattr("ingest.encode.compressors.MOST_BYTES", most_bytes)
    rng, how, calls = np.random.default_rng(0), choose_filter(codec, level), []
    if how.compress_sparse is not None:
        kept = how.compress_sparse
        how = replace(how, compress_sparse=lambda *args: calls.append(args) or kept(*args))
    places = np.sort(rng.choice(length, n, replace=False)).astype(np.int64)
    values = rng.integers(1, 300, n).astype(np.int16)
    compressors = Compressors(how, 1)
    stored = compressors.start_sparse(places, values, length)
    assert bool(calls) == sparse
    whole = np.zeros(length, np.int16)
    whole[places] = values
    np.testing.assert_array_equal(compressors.undo(stored, np.dtype(np.int16), length), whole)
