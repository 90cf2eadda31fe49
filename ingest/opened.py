"""A committed plan with all it names, read from DEST: what a worker, a verifier or a loader starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ingest.amendments import Amendments
from ingest.errors import ConfigError, CorruptError
from ingest.genes import GENE_FIELDS, Genes
from ingest.index_blocks import parse_blocks
from ingest.layout import PLAN_KEY
from ingest.ledger.ledger import Ledger
from ingest.naming import source_labels
from ingest.plan_index import PlanIndex
from ingest.record_fields import check_fields
from ingest.survey.table import surveys_from_bytes

if TYPE_CHECKING:
    from ingest.plan import Plan
    from ingest.store.base import Store
    from ingest.survey.model import SourceSurvey

__all__ = ["OpenPlan", "amended", "genes_from_bytes", "genes_to_bytes", "open_plan"]


@dataclass(frozen=True, slots=True, eq=False)
class OpenPlan:
    """The plan of a DEST and the files it names, checked against their digests."""

    plan: Plan
    ledger: Ledger
    genes: Genes
    surveys: tuple[SourceSurvey, ...]
    """In the order of ``plan.identity.sources``."""
    labels: tuple[str, ...]
    """Short unique names of the sources."""
    index: PlanIndex
    amendments: Amendments
    """What chunks may lack of the plan, when it was opened: another driver may permit more, see `amended`."""

    @property
    def store(self) -> Store:
        """Where DEST is."""
        return self.ledger.store


def open_plan(store: Store) -> OpenPlan:
    """Read the plan that DEST holds.

    Raises
    ------
    ConfigError
        DEST holds no plan.
    CorruptError
        The plan, a file that it names, or an amendment is damaged.
    """
    ledger = Ledger(store)
    plan = ledger.plan()
    if plan is None:
        raise ConfigError(
            f"{store.url} holds no dataset", kind="no-plan", hint="start one with `run DEST --index FILE`"
        )
    surveys = surveys_from_bytes(ledger.file(plan, "survey"), key=plan.files["survey"])
    genes = genes_from_bytes(ledger.file(plan, "genes"), key=plan.files["genes"])
    _check_together(plan, surveys, genes)
    blocks = None  # as in plans of earlier builds
    if "blocks" in plan.files:
        blocks = parse_blocks(ledger.file(plan, "blocks"), key=plan.files["blocks"])
    index = PlanIndex(store, plan.files["index"], plan.identity.cells_per_chunk, blocks)
    index.check_length(plan.n_cells)
    labels = source_labels([survey.source for survey in surveys])
    return OpenPlan(plan, ledger, genes, surveys, labels, index, Amendments(ledger.amendments(plan)))


def amended(opened: OpenPlan) -> OpenPlan:
    """Return the same with the amendments of now: those that permit what receipts listed before this call lack.

    Raises
    ------
    CorruptError
        An amendment is damaged.
    """
    return replace(opened, amendments=Amendments(opened.ledger.amendments(opened.plan)))


def _check_together(plan: Plan, surveys: tuple[SourceSurvey, ...], genes: Genes) -> None:
    """Refuse a plan whose files are of other sources or genes: they would be counted on by number."""
    identity = plan.identity
    if identity.sources != tuple(str(survey.source) for survey in surveys) or identity.n_genes != len(genes):
        raise CorruptError(
            f"{PLAN_KEY}: its survey and genes are of {len(surveys):,} sources and {len(genes):,} genes, it is of"
            f" {len(identity.sources):,} and {identity.n_genes:,}",
            kind="plan-damaged",
            key=PLAN_KEY,
        )


def genes_to_bytes(genes: Genes) -> bytes:
    """Encode the ordered genes."""
    document = {"ids": genes.ids, "names": genes.names, "lengths": genes.lengths}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def genes_from_bytes(data: bytes, *, key: str) -> Genes:
    """Decode the ordered genes.

    Raises
    ------
    CorruptError
        The bytes are no gene list.
    """
    try:
        document = json.loads(data)
        check_fields(document, GENE_FIELDS)
        return Genes(tuple(document["ids"]), tuple(document["names"]), tuple(document["lengths"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptError(f"{key} is no gene list ({error})", key=key) from error
