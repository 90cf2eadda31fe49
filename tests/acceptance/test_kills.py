"""Workers, drivers and nodes of real runs on one Ray are killed, and every cell is there once, as its source has it."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import pytest

from ingest.testing.exact import compare_cells
from ingest.testing.kills import draw_kills, fight, open_arena

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("n_kills", "each"), [(20, 20), pytest.param(100, 12, marks=pytest.mark.long)], ids=["twenty", "hundred"]
)
def test_whoever_is_killed_every_cell_is_there_once(tmp_path: Path, n_kills: int, each: int):
    """In each dataset all but the last of its kills hit a run that was under way."""
    kills, rounds = deque(draw_kills(n_kills, seed=20)), []
    with open_arena(tmp_path) as arena:
        while kills:
            rounds.append(fight(arena, len(rounds) + 1, kills, most=each))
            assert rounds[-1].good, str(rounds[-1])
    killed = sum((one.killed for one in rounds), Counter())
    assert killed.total() == n_kills
    assert set(killed) == {"worker", "driver", "raylet", "machine"}
    assert compare_cells(tmp_path / "undisturbed", arena.truth).equal, "what is compared with"
