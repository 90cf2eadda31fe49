"""``run`` with quality rules: what the index answers acts in the plan, the rest in a second step over a first dataset.

The first dataset holds all genes of the cells that the index leaves, beside DEST; it is judged as `qc` does, with the
results in ``_ingest/qc/`` of DEST; their index and genes are what DEST is planned from. Every step resumes, so the same
command goes on wherever it stopped.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ingest.cli.progress import note, notice
from ingest.cli.words import count_text
from ingest.layout import QC_GENE_LIST_KEY, QC_INDEX_KEY
from ingest.qc.parameters import listed_texts, said_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ingest.opened import OpenPlan
    from ingest.qc.index_rules import Filtered
    from ingest.qc.parameters import QcRules
    from ingest.settings import DataSettings, WorkSettings
    from ingest.source import Source
    from ingest.store.base import Store

__all__ = ["Bring", "run_judged"]

_PIECE_BYTES = 16 << 20
_RESULTS = "_ingest/qc"
"""Where DEST keeps what judging came to; there it does not count as occupied by something else."""


class Bring(Protocol):
    """How cells of an index come to a destination: all of `run` that follows the reading of its options."""

    def __call__(
        self,
        store: Store,
        index: Path,
        data: DataSettings,
        work: WorkSettings,
        *,
        limit: int | None,
        quality: Mapping[str, Any] | None,
        between: bool,
    ) -> int:
        """Bring the cells; return the exit code.

        Parameters
        ----------
        limit
            Take the first so many rows.
        quality
            To be recorded in the plan.
        between
            Another step follows: nothing goes to stdout.
        """
        ...


def run_judged(
    store: Store,
    index: Path,
    rules: QcRules,
    data: DataSettings,
    work: WorkSettings,
    bring: Bring,
    *,
    default_source: Source | None,
    raw_dest: str | None,
    dry_run: bool,
) -> int:
    """Bring the cells and genes that `rules` leave of an index; return the exit code.

    Raises
    ------
    ForeignPlanError
        DEST was planned from another index, with other rules or settings.
    IngestError
        As `run`, as `qc`.
    """
    from ingest.index_file import IndexFile
    from ingest.qc.index_rules import filter_index, split_rules, states_totals
    from ingest.scratch import Scratch

    file = IndexFile(index, data.max_cells)
    now, later = split_rules(rules, totals=rules.by_totals and states_totals(file, data.genes, default_source))
    quality: dict[str, Any] = {"rules": rules.document()}
    scratch = Scratch(work.scratch)
    try:
        path, limit = index, data.max_cells
        if now.by_annotation or now.by_totals:
            path, limit = scratch.path / "asked.feather", None
            with scratch.guarded():
                found = filter_index(file, now, path)
            _say_planned(found)
            quality |= _planned_record(found)
        if not _wants_counts(later):
            return bring(store, path, data, work, limit=limit, quality=quality, between=False)
        request = _request(index, rules, data, default_source)
        with _opened(raw_dest or f"{store.url}-raw", work) as raw, _opened(f"{store.url}/{_RESULTS}", work) as results:
            steps = _TwoSteps(store, raw, results, later, data, work, bring, quality | request, scratch.path)
            return steps.run(path, limit, dry_run=dry_run)
    finally:
        scratch.close()


def _wants_counts(rules: QcRules) -> bool:
    return bool(
        rules.by_totals or rules.max_mito_pct is not None or rules.most_mads or rules.leave_out or rules.filters_genes
    )


def _say_planned(found: Filtered) -> None:
    dropped = ", ".join(f"{rule} {drops.first:,}" for rule, drops in found.drops.items()) or "none"
    kept = f"{found.n_kept:,} of {count_text(found.n_cells, 'cell')} stay by what the index says"
    notice("Quality", f"{kept}; dropped: {dropped}")
    for annotation in found.annotations:
        note(f"{'':8} leaving out where {annotation}")


def _planned_record(found: Filtered) -> dict[str, Any]:
    return {
        "annotations": [asdict(annotation) for annotation in found.annotations],
        "cells_before": found.n_cells,
        "dropped_while_planning": {rule: asdict(drops) for rule, drops in found.drops.items()},
    }


def _request(index: Path, rules: QcRules, data: DataSettings, default_source: Source | None) -> dict[str, Any]:
    """Return what a dataset that is made in two steps was asked for, which its plan alone does not say."""
    from ingest.documents import canonical, sha256_hex
    from ingest.store.body import file_sha256

    asked = {
        "index": file_sha256(index),
        "rules": rules.document(),
        "data": asdict(data),
        "source": None if default_source is None else str(default_source),
    }
    return {"request": sha256_hex(canonical(asked))}


@contextmanager
def _opened(url: str, work: WorkSettings) -> Iterator[Store]:
    from ingest.store.open import open_store

    store = open_store(url, endpoint_url=work.endpoint_url)
    try:
        yield store
    finally:
        store.close()


@dataclass(frozen=True, slots=True, eq=False)
class _TwoSteps:
    store: Store
    raw: Store
    """Where the first dataset goes."""
    results: Store
    """Where what it is judged to be goes."""
    rules: QcRules
    data: DataSettings
    work: WorkSettings
    bring: Bring
    quality: Mapping[str, Any]
    scratch: Path

    def run(self, index: Path, limit: int | None, *, dry_run: bool) -> int:
        if (opened := _planned(self.store, self.quality)) is not None:
            notice("Resume", f"{self.store.url} is planned already: its first step is done")
            return self._bring_planned(opened)
        notice("Step 1", f"all genes of the cells, to be judged by their counts: {self.raw.url}")
        first = _raw_settings(self.data), replace(self.work, cells_json=False)
        if code := self.bring(self.raw, index, *first, limit=limit, quality=None, between=True):
            note("the first of two steps is not finished, nothing was judged; run the same command to go on")
            return code
        if dry_run:
            note(f"{'':8} what the second step brings depends on the counts that the first finds")
            return 0
        return self._bring_judged(self._judge())

    def _bring_planned(self, opened: OpenPlan) -> int:
        # What it was planned from, not the plan's own index: that may be in another order.
        index = self.scratch / "judged.feather"
        _fetch(self.results, QC_INDEX_KEY, index)
        genes = replace(self.data.genes, wanted=opened.genes.ids, max_genes=None)
        data = replace(self.data, genes=genes)
        return self.bring(self.store, index, data, self.work, limit=None, quality=self.quality, between=False)

    def _judge(self) -> dict[str, Any]:
        from ingest.cli.qc import judge_dataset
        from ingest.errors import ConflictError, EmptySelectionError
        from ingest.hvg.find import read_data
        from ingest.opened import open_plan

        data, settings = read_data(open_plan(self.raw)), replace(self.work, cpus=1)
        try:
            document, _ = judge_dataset(data, self.rules, self.results, settings)
        except ConflictError as error:
            if error.kind != "other-qc":
                raise
            # Of a request that never became a plan of DEST: nothing rests on it.
            document, _ = judge_dataset(data, self.rules, self.results, settings, force=True)
        for rule, drops in document["dropped_by_rule"].items():
            note(f"{'':8} {rule} drops {drops['first']:,} cells, {drops['alone']:,} by it alone")
        for things in ("cells", "genes"):
            if not document[things]["kept"]:
                raise EmptySelectionError(
                    f"the quality rules drop all {document[things]['n']:,} {things} of {self.raw.url}",
                    hint=f"{self.results.url}/qc.json and qc.png say which rule dropped how many",
                )
        return document

    def _bring_judged(self, document: Mapping[str, Any]) -> int:
        index, genes = self.scratch / "judged.feather", self.scratch / "genes.txt"
        _fetch(self.results, QC_INDEX_KEY, index)
        _fetch(self.results, QC_GENE_LIST_KEY, genes)
        notice("Step 2", f"{document['cells']['kept']:,} cells, {document['genes']['kept']:,} genes: {self.store.url}")
        wanted = _wanted(self.data, self.rules, listed_texts(f"@{genes}", "the genes that stay"))
        data = replace(self.data, genes=replace(self.data.genes, wanted=wanted))
        names = ("cells", "genes", "dropped_by_rule", "adaptive")
        judged = {"digest": document["dataset"]["digest"], **{name: document[name] for name in names}}
        quality = {**self.quality, "judged": judged}
        code = self.bring(self.store, index, data, self.work, limit=None, quality=quality, between=False)
        if not code:
            note(f"{self.results.url} has qc.json and qc.png; {self.raw.url}, all cells as they came, can be removed")
        return code


def _raw_settings(data: DataSettings) -> DataSettings:
    """Return how the first dataset is written: all genes as h5ad, whatever the second is to be."""
    from ingest.settings import DataSettings
    from ingest.vocabulary import GeneRule

    genes = GeneRule(align=data.genes.align)
    return DataSettings(
        max_cells=data.max_cells,
        genes=genes,
        strip_version=data.strip_version,
        layer=data.layer,
        allow_noninteger=data.allow_noninteger,
    )


def _wanted(data: DataSettings, rules: QcRules, kept: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the genes asked for, in the order asked for, without those that a rule drops."""
    if not rules.filters_genes:
        return data.genes.wanted
    if data.genes.wanted is None:
        return kept
    stays = set(kept)
    return tuple(gene for gene in data.genes.wanted if gene in stays)


def _fetch(store: Store, key: str, path: Path) -> None:
    size = store.stat(key).size
    with path.open("wb") as file:
        for start in range(0, size, _PIECE_BYTES):
            file.write(store.get_range(key, start, min(_PIECE_BYTES, size - start)))


# -- a second step that was begun ----------------------------------------------------------------------------------


def _planned(store: Store, quality: Mapping[str, Any]) -> OpenPlan | None:
    """Return the plan of DEST where it was made for this very request; None where there is none yet.

    Raises
    ------
    ForeignPlanError
        It was made for something else: said before a first step is made in vain.
    """
    from ingest.errors import ForeignPlanError
    from ingest.ledger.ledger import Ledger
    from ingest.opened import open_plan

    plan = Ledger(store).plan()
    if plan is None:
        return None
    there = plan.provenance.settings.get("quality_control") or {}
    if there.get("request") == quality["request"]:
        return open_plan(store)
    old, new = there.get("rules", {}), quality["rules"]
    which = (
        f"rules {said_rules(old)} there, {said_rules(new)} here" if old != new else "another index or other settings"
    )
    raise ForeignPlanError(
        f"{store.url} holds another plan: {which}",
        hint=f"use another destination, or `run {store.url}` without --index to go on with what it holds",
    )
