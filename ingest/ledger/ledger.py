"""The ledger over a store: put-if-absent decides, listings tell, digests are compared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ingest.amendments import parse_amendment
from ingest.documents import parse, readable, sha256_hex
from ingest.errors import AlreadyExistsError, ConflictError, CorruptError, NotFoundError
from ingest.layout import (
    AMENDMENTS,
    FAILURES,
    PLAN_KEY,
    RECEIPTS,
    RUNS,
    amendment_key,
    claim_key,
    failure_key,
    is_amendment,
    receipt_chunks,
    receipts_from,
    run_end_key,
    run_record,
    run_start_key,
)
from ingest.ledger.receipts import Receipt, parse_receipt
from ingest.ordered_map import map_ordered
from ingest.plan import Plan, parse_plan
from ingest.store.body import holds, open_body

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from ingest.amendments import Amendment
    from ingest.pool import Failure
    from ingest.store.base import Store

__all__ = ["Ledger", "put_same", "put_same_file"]

_READERS = 16
"""Threads for many small reads; they wait for the store, not for a core."""

_AHEAD = 8 * _READERS
"""Reads begun before their result is wanted: 100,000 receipts are not held at once."""


def put_same(store: Store, key: str, data: bytes) -> bool:
    """Create `key`, or find exactly these bytes there already; True when this call created it.

    A success whose reply was lost is recognised in the same way.

    Raises
    ------
    ConflictError
        Other bytes are there.
    """
    try:
        store.put_new(key, data)
    except AlreadyExistsError as error:
        if store.get(key) != data:
            raise ConflictError(
                f"{store.url}/{key} exists with other content", kind="other-content", key=key
            ) from error
        return False
    return True


def put_same_file(store: Store, key: str, path: Path) -> bool:
    """Create `key` from a local file, or find exactly its bytes there: `put_same` for what is never whole in memory.

    Raises
    ------
    ConflictError
        Other bytes are there.
    """
    try:
        store.put_new_file(key, path)
    except AlreadyExistsError as error:
        with open_body(path) as body:
            if not holds(store, key, body):
                raise ConflictError(
                    f"{store.url}/{key} exists with other content", kind="other-content", key=key
                ) from error
        return False
    return True


class Ledger:
    """What exists under one DEST."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- plan ----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """Return the plan that DEST holds, or None when it holds none."""
        try:
            return parse_plan(self.store.get(PLAN_KEY))
        except NotFoundError:
            return None

    def file(self, plan: Plan, role: str) -> bytes:
        """Return the bytes of the plan's index, survey or genes, checked before anything parses them.

        Raises
        ------
        CorruptError
            They are not the bytes that the plan names, or are gone.
        """
        key = plan.files[role]
        try:
            data = self.store.get(key)
        except NotFoundError as error:
            raise CorruptError(f"{self.store.url}/{key} is gone; plan.json names it", key=key) from error
        if sha256_hex(data) != plan.sha256[role]:
            raise CorruptError(f"{self.store.url}/{key} is not what plan.json names: sha256 differs", key=key)
        return data

    # -- amendments ----------------------------------------------------------------------------------------------

    def amendments(self, plan: Plan) -> list[Amendment]:
        """Return what the dataset leaves out, in the order of their making.

        Raises
        ------
        CorruptError
            One is damaged, or of another plan.
        """
        found = []
        for key in self._amendment_keys():
            amendment = parse_amendment(self.store.get(key), key=key)
            if amendment.plan != plan.identity.digest:
                raise CorruptError(f"{key} belongs to another plan ({amendment.plan})", key=key)
            found.append(amendment)
        return found

    def amend(self, amendment: Amendment) -> str:
        """Record an amendment under the first number that is free; return its key."""
        number, data = len(self._amendment_keys()), amendment.seal()
        while True:
            key = amendment_key(number)
            try:
                self.store.put_new(key, data)
            except AlreadyExistsError:
                # Our own, if a reply was lost; else another driver's, which permits what it permits.
                if self.store.get(key) == data:
                    return key
                number += 1
            else:
                return key

    def _amendment_keys(self) -> list[str]:
        return [stat.key for stat in self.store.list(AMENDMENTS) if is_amendment(stat.key)]

    # -- receipts ------------------------------------------------------------------------------------------------

    def done(self) -> set[int]:
        """Return the chunks that exist: one listing."""
        found: set[int] = set()
        for stat in self.store.list(RECEIPTS):
            found.update(receipt_chunks(stat.key) or ())
        return found

    def done_among(self, chunks: Sequence[int]) -> set[int]:
        """Return which of `chunks`, ascending and close together, exist: a listing or two of their neighbourhood.

        A receipt that begins far before them is not seen.
        """
        if not chunks:
            return set()
        zeros = len(str(chunks[-1] - chunks[0]))
        found: set[int] = set()
        for block in sorted({chunks[0] // 10**zeros, chunks[-1] // 10**zeros}):
            for stat in self.store.list(receipts_from(block, zeros)):
                found.update(receipt_chunks(stat.key) or ())
        return found.intersection(chunks)

    def receipts(self) -> Iterator[Receipt]:
        """Read every receipt, in order of chunks.

        Raises
        ------
        CorruptError
            One is damaged.
        """
        keys = [stat.key for stat in self.store.list(RECEIPTS) if receipt_chunks(stat.key) is not None]
        with ThreadPoolExecutor(_READERS) as readers:
            found = map_ordered(readers, self.store.get, keys, ahead=_AHEAD)
            for key, data in zip(keys, found, strict=True):
                yield parse_receipt(data, key=key)

    def commit(self, receipt: Receipt) -> Receipt:
        """Make the receipt's chunks exist, or find that they do; return the receipt that stands.

        Raises
        ------
        ConflictError
            A receipt for the same chunks records other content.
        """
        try:
            self.store.put_new(receipt.key, receipt.seal())
        except AlreadyExistsError as error:
            standing = parse_receipt(self.store.get(receipt.key), key=receipt.key)
            if not receipt.agrees_with(standing):
                raise ConflictError(
                    f"{receipt.key} records other content than was made here",
                    kind="other-content",
                    hint="`verify` says which of the two is right, `repair` mends it",
                    key=receipt.key,
                ) from error
            return standing
        return receipt

    # -- failures and runs ---------------------------------------------------------------------------------------

    def record_failures(self, attempt: str, failures: Sequence[Failure]) -> None:
        """Record what went wrong in one attempt."""
        for ordinal, failure in enumerate(failures):
            # A message may quote bytes that are no UTF-8, as h5py smuggles them into texts.
            facts = {
                name: fact.encode("utf-8", "replace").decode() if isinstance(fact, str) else fact
                for name, fact in asdict(failure).items()
            }
            put_same(self.store, failure_key(attempt, ordinal), readable({"attempt": attempt, **facts}))

    def failures(self) -> list[dict[str, Any]]:
        """Return all failure records."""
        return [document for _, document in self._documents([stat.key for stat in self.store.list(FAILURES)])]

    def claim(self, run_id: str, unit_id: int, chunks: Iterable[int]) -> None:
        """Say for ``status`` that a unit has begun; it locks nothing."""
        put_same(self.store, claim_key(run_id, unit_id), readable({"unit": unit_id, "chunks": list(chunks)}))

    def start_run(self, run_id: str, facts: dict[str, Any]) -> None:
        """Record who started which version when."""
        put_same(self.store, run_start_key(run_id), readable({"run": run_id, **facts}))

    def end_run(self, run_id: str, facts: dict[str, Any]) -> None:
        """Record how the run ended."""
        put_same(self.store, run_end_key(run_id), readable({"run": run_id, **facts}))

    def open_runs(self) -> set[str]:
        """Return the runs that have begun and not ended: still at work, or killed. One listing."""
        found = [run_record(stat.key) for stat in self.store.list(RUNS)]
        started, ended = ({one[0] for one in found if one and one[1] == name} for name in ("start.json", "end.json"))
        return started - ended

    def runs(self) -> list[dict[str, Any]]:
        """Return every run: its start, its end (absent: killed or still going) and the chunks of its claims."""
        runs: dict[str, dict[str, Any]] = {}
        keys = [stat.key for stat in self.store.list(RUNS)]
        records = {key: record for key in keys if (record := run_record(key))}
        for key, document in self._documents(records):
            run_id, name = records[key]
            run = runs.setdefault(run_id, {"run": run_id, "start": None, "end": None, "claimed": set()})
            if name.startswith("unit-"):
                run["claimed"].update(document["chunks"])
            else:
                run[name.removesuffix(".json")] = document
        return [runs[run_id] for run_id in sorted(runs)]

    def _documents(self, keys: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        with ThreadPoolExecutor(_READERS) as readers:
            for key, data in zip(keys, readers.map(self.store.get, keys), strict=True):
                yield key, parse(data, key=key)
