"""Find out whether a store keeps its promise of exclusive creation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.errors import AlreadyExistsError, ConfigError

if TYPE_CHECKING:
    from ingest.store.base import Store

__all__ = ["check_preconditions"]


def check_preconditions(store: Store, key: str, data: bytes) -> None:
    """Put `key`, which exists and holds `data`, a second time, and see it refused.

    The same bytes are put, so that a store which accepts them does no damage by it.

    Raises
    ------
    NotFoundError
        The key is absent: nothing would be proven.
    ConfigError
        The store accepted the write (kind ``store-ignores-preconditions``): two drivers could overwrite each other.
    """
    store.stat(key)
    try:
        store.put_new(key, data)
    except AlreadyExistsError:
        return
    raise ConfigError(
        f"{store.url} accepted a create-only write of {key}, which exists: it ignores preconditions",
        kind="store-ignores-preconditions",
        hint="use a store that honours them, or --single-driver when nothing else will ever write there",
        key=key,
    )
