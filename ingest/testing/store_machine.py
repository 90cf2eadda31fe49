"""A store against a dictionary: any sequence of operations, the same answers."""

# ruff: noqa: S101  # assert is how pytest speaks

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.errors import AlreadyExistsError, CorruptError, NotFoundError, PreconditionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.store.base import Store

__all__ = ["store_machine"]

# Few keys, so that operations meet; no key is a folder of another, which a file system could not hold.
KEYS = st.sampled_from(["a", "a-b", "b/1", "b/10", "b/c/1", "é"])
DATA = st.binary(max_size=64)
PREFIXES = st.sampled_from(["", "a", "b", "b/", "b/1", "b/c/", "nothing"])


def store_machine(open_empty: Callable[[], Store]) -> type[RuleBasedStateMachine]:
    """Return the state machine over stores that `open_empty` makes, each in a place of its own.

    Run it by ``hypothesis.stateful.run_state_machine_as_test``.
    """

    class StoreMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = open_empty()
            self.model: dict[str, bytes] = {}
            self.versions: dict[str, list[str]] = {}

        @rule(key=KEYS, data=DATA)
        def put_new(self, key: str, data: bytes) -> None:
            if key in self.model:
                with pytest.raises(AlreadyExistsError):
                    self.store.put_new(key, data)
            else:
                self._remember(key, data, self.store.put_new(key, data).version)

        @rule(key=KEYS, data=DATA)
        def replace_current(self, key: str, data: bytes) -> None:
            if key in self.model:
                expected = self.versions[key][-1]
                self._remember(key, data, self.store.replace(key, data, expected=expected).version)

        @rule(key=KEYS, data=DATA, choice=st.integers(0, 9))
        def replace_stale(self, key: str, data: bytes, choice: int) -> None:
            stale = self._stale(key)
            if stale:
                with pytest.raises(PreconditionError):
                    self.store.replace(key, data, expected=stale[choice % len(stale)])

        @rule(key=KEYS)
        def delete_current(self, key: str) -> None:
            if key in self.model:
                self.store.delete(key, expected=self.versions[key][-1])
                del self.model[key]

        @rule(key=KEYS, choice=st.integers(0, 9))
        def delete_stale(self, key: str, choice: int) -> None:
            stale = self._stale(key)
            if stale:
                with pytest.raises(PreconditionError if key in self.model else NotFoundError):
                    self.store.delete(key, expected=stale[choice % len(stale)])

        @rule(key=KEYS)
        def get(self, key: str) -> None:
            if key in self.model:
                assert self.store.get(key) == self.model[key]
            else:
                with pytest.raises(NotFoundError):
                    self.store.get(key)

        @rule(key=KEYS, start=st.integers(0, 70), length=st.integers(0, 70))
        def get_range(self, key: str, start: int, length: int) -> None:
            if key not in self.model:
                with pytest.raises(NotFoundError):
                    self.store.get_range(key, start, length)
            elif length and start + length > len(self.model[key]):
                with pytest.raises(CorruptError):
                    self.store.get_range(key, start, length)
            else:
                assert self.store.get_range(key, start, length) == self.model[key][start : start + length]

        @rule(prefix=PREFIXES, after=PREFIXES)
        def list_prefix(self, prefix: str, after: str) -> None:
            wanted = [key for key in sorted(self.model) if key.startswith(prefix) and key > after]
            assert [stat.key for stat in self.store.list(prefix, after=after)] == wanted

        @invariant()
        def listing_is_the_model(self) -> None:
            found = [(stat.key, stat.size, stat.version) for stat in self.store.list("")]
            assert found == [(key, len(self.model[key]), self.versions[key][-1]) for key in sorted(self.model)]

        def teardown(self) -> None:
            self.store.close()

        def _remember(self, key: str, data: bytes, version: str) -> None:
            self.model[key] = data
            self.versions.setdefault(key, []).append(version)

        def _stale(self, key: str) -> list[str]:
            """Return earlier versions; not those that equal the present one, as an ETag of equal bytes does."""
            known: list[Any] = self.versions.get(key, [])
            return [version for version in known if key not in self.model or version != known[-1]]

    return StoreMachine
