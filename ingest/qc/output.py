"""Where results are kept: found again when nothing that decides them has changed, replaced only when told to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.documents import parse
from ingest.errors import AlreadyExistsError, ConflictError, CorruptError, NotFoundError
from ingest.layout import QC_KEY
from ingest.ledger.ledger import put_same
from ingest.qc.parameters import differing
from ingest.store.body import holds, object_sha256, open_body

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ingest.store.base import Store

__all__ = ["Kept", "look_for_record", "write_qc"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What was found where the results are to be written."""

    document: dict[str, Any] | None = None
    """The record, when it is the one asked for and all that it names is there."""
    version: str | None = None
    """Of a record that may be replaced; None where there is none."""


def look_for_record(store: Store, identity: dict[str, Any], *, force: bool) -> Kept:
    """Return the record for the same data and rules, or what stands in its place.

    A record of which a file is missing, or another's, is made again.

    Raises
    ------
    ConflictError
        Another record is there (kind ``other-qc``), and `force` was not said.
    """
    try:
        # The version before the bytes: what is replaced is then what was looked at, or nothing.
        version, data = store.stat(QC_KEY).version, store.get(QC_KEY)
    except NotFoundError:
        return Kept()
    if force:
        return Kept(version=version)
    try:
        there = parse(data, key=QC_KEY)
        differences = differing(there, identity)
    except CorruptError as error:
        there, differences = {}, [error.message]
    if differences:
        raise ConflictError(
            f"{store.url}/{QC_KEY} is there and differs: {'; '.join(differences)}",
            kind="other-qc",
            hint="--force replaces it, --output-dir DIR keeps both",
            key=QC_KEY,
        )
    files = there.get("sha256")
    whole = isinstance(files, dict) and all(_is_there(store, key, str(digest)) for key, digest in files.items())
    return Kept(there if whole else None, version)


def _is_there(store: Store, key: str, sha256: str) -> bool:
    try:
        return object_sha256(store, key, store.stat(key).size) == sha256
    except NotFoundError:
        return False


def write_qc(store: Store, kept: Kept, document: bytes, files: Mapping[str, Path]) -> None:
    """Write the files and then the record, which names their digests: killed in between, all are made again.

    Raises
    ------
    ConflictError
        Somebody else has written another record meanwhile.
    """
    for key, path in files.items():
        _put_file(store, key, path)
    if kept.version is None:
        put_same(store, QC_KEY, document)
    else:
        store.replace(QC_KEY, document, expected=kept.version)


def _put_file(store: Store, key: str, path: Path) -> None:
    try:
        store.put_new_file(key, path)
    except AlreadyExistsError:
        version = store.stat(key).version
        with open_body(path) as body:
            same = holds(store, key, body)
        if not same:
            store.replace_file(key, path, expected=version)
