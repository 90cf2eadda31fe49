"""Where the genes are kept: found again when nothing that decides them has changed, replaced only when told to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.documents import parse, sha256_hex
from ingest.errors import AlreadyExistsError, ConflictError, CorruptError, NotFoundError
from ingest.hvg.parameters import differing
from ingest.layout import HVG_KEY, HVG_PLOT_KEY
from ingest.ledger.ledger import put_same

if TYPE_CHECKING:
    from ingest.store.base import Store

__all__ = ["Kept", "look_for_record", "write_hvgs"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What was found where the genes are to be written."""

    document: dict[str, Any] | None = None
    """The record, when it is the one asked for."""
    version: str | None = None
    """Of a record that may be replaced; None where there is none."""


def look_for_record(store: Store, identity: dict[str, Any], *, force: bool, wants_plot: bool) -> Kept:
    """Return the record for the same data and parameters, or what stands in its place.

    Parameters
    ----------
    force
        Make it anew whatever is there.
    wants_plot
        A record whose plot is missing, or another's, is made again.

    Raises
    ------
    ConflictError
        Another record is there (kind ``other-hvg``), and `force` was not said.
    """
    try:
        # The version before the bytes: what is replaced is then what was looked at, or nothing.
        version, data = store.stat(HVG_KEY).version, store.get(HVG_KEY)
    except NotFoundError:
        return Kept()
    if force:
        return Kept(version=version)
    try:
        there = parse(data, key=HVG_KEY)
        differences = differing(there, identity)
    except CorruptError as error:
        there, differences = {}, [error.message]
    if differences:
        raise ConflictError(
            f"{store.url}/{HVG_KEY} is there and differs: {'; '.join(differences)}",
            kind="other-hvg",
            hint="--force replaces it, --output-dir DIR keeps both",
            key=HVG_KEY,
        )
    if wants_plot and not _has_plot(store, there):
        return Kept(version=version)
    return Kept(there, version)


def _has_plot(store: Store, document: dict[str, Any]) -> bool:
    try:
        return sha256_hex(store.get(HVG_PLOT_KEY)) == document.get("plot_sha256")
    except NotFoundError:
        return False


def write_hvgs(store: Store, kept: Kept, document: bytes, plot: bytes | None) -> None:
    """Write the plot and then the record, which names the plot's digest: killed in between, both are made again.

    Raises
    ------
    ConflictError
        Somebody else has written another record meanwhile.
    """
    if plot is not None:
        _put_plot(store, plot)
    if kept.version is None:
        put_same(store, HVG_KEY, document)
    else:
        store.replace(HVG_KEY, document, expected=kept.version)


def _put_plot(store: Store, plot: bytes) -> None:
    try:
        store.put_new(HVG_PLOT_KEY, plot)
    except AlreadyExistsError:
        version = store.stat(HVG_PLOT_KEY).version
        if store.get(HVG_PLOT_KEY) != plot:
            store.replace(HVG_PLOT_KEY, plot, expected=version)
