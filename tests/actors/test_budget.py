from __future__ import annotations

from actors.budget import StartBudget
from ingest.errors import ConfigError


def test_delays_double_up_to_half_a_minute():
    budget = StartBudget(limit=99)
    delays = [budget.delay_s]
    for _ in range(9):
        budget.failed(RuntimeError("no"))
        delays.append(budget.delay_s)
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_it_is_spent_by_failures_in_a_row_and_forgets_them_when_a_worker_works():
    budget = StartBudget(limit=2)
    budget.failed(RuntimeError("one"))
    budget.worked()
    budget.failed(RuntimeError("two"))
    assert not budget.spent
    budget.failed(ConfigError("no such bucket", hint="make it"))
    assert budget.spent
    error = budget.error()
    assert error.kind == "pool-start"
    assert "no such bucket" in str(error)
    assert error.hint == "make it"
