"""Putting a plan into DEST, or finding that it is there: index, survey and genes first, plan.json commits them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.documents import seal
from ingest.errors import AlreadyExistsError, ConflictError, ForeignPlanError
from ingest.layout import PLAN_KEY
from ingest.ledger.ledger import Ledger, put_same, put_same_file
from ingest.opened import open_plan
from ingest.plan import differences
from ingest.store.probe import check_preconditions

if TYPE_CHECKING:
    from ingest.opened import OpenPlan
    from ingest.planning import Draft
    from ingest.store.base import Store

__all__ = ["check_destination", "commit_plan", "refuse_careless"]

_SAID = 3
"""Differences named in the refusal; more would not fit a line."""


def commit_plan(store: Store, draft: Draft, *, single_driver: bool = False) -> OpenPlan:
    """Make `draft` the plan of DEST, or join the equal one that is there.

    Raises
    ------
    ForeignPlanError
        DEST holds another plan; it says what differs.
    ConflictError
        DEST is not empty and holds no plan.
    ConfigError
        The store ignores preconditions (kind ``store-ignores-preconditions``).
    """
    ledger = Ledger(store)
    if not _holds_plan(store, ledger):
        for role, data in draft.files.items():
            if isinstance(data, bytes):
                put_same(store, draft.plan.files[role], data)
            else:
                put_same_file(store, draft.plan.files[role], data)
        _put_plan(store, draft)
    _refuse_foreign(store, ledger, draft)
    refuse_careless(store, single_driver=single_driver)
    return open_plan(store)


def refuse_careless(store: Store, *, single_driver: bool = False) -> None:
    """Refuse a store that ignores preconditions, unless nobody else ever writes there.

    Whoever goes on with a plan asks too: the run that committed it may have been told of no other driver, or been
    refused.

    Raises
    ------
    ConfigError
        Kind ``store-ignores-preconditions``.
    """
    if not single_driver:
        check_preconditions(store, PLAN_KEY, store.get(PLAN_KEY))


def check_destination(store: Store, draft: Draft) -> set[int]:
    """Return the chunks of `draft` that DEST holds already, without writing anything.

    Raises
    ------
    ForeignPlanError, ConflictError
        As `commit_plan`: what a run would refuse, a dry run refuses too.
    """
    ledger = Ledger(store)
    if not _holds_plan(store, ledger):
        return set()
    _refuse_foreign(store, ledger, draft)
    return ledger.done()


def _put_plan(store: Store, draft: Draft) -> None:
    try:
        store.put_new(PLAN_KEY, seal(draft.plan.document()))
    except AlreadyExistsError:
        # Another driver was faster, or our own reply was lost: what is there is compared next.
        return


def _refuse_foreign(store: Store, ledger: Ledger, draft: Draft) -> None:
    there = ledger.plan()
    found = [] if there is None else differences(there.identity, draft.plan.identity)
    if not found:
        return
    more = f"; and {len(found) - _SAID} more" if len(found) > _SAID else ""
    raise ForeignPlanError(
        f"{store.url} holds another plan: {'; '.join(found[:_SAID])}{more}",
        hint=f"use another destination, or `run {store.url}` without --index to go on with what it holds",
    )


def _holds_plan(store: Store, ledger: Ledger) -> bool:
    """Say whether DEST holds a plan; refuse what holds none and is not empty."""
    if ledger.plan() is not None:
        return True
    strangers = (stat.key for stat in store.list("") if not stat.key.startswith("_ingest/"))
    first = next(strangers, None)
    if first is None:
        return False
    # Another driver may have committed its plan, and made what was listed, since the plan was looked for.
    if ledger.plan() is not None:
        return True
    raise ConflictError(
        f"{store.url} is not empty ({first}) and holds no plan",
        kind="occupied",
        hint="use an empty destination; nothing there was touched",
    )
