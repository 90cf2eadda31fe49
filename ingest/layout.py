"""The keys under DEST, in one place. Built from digits and digests only, never from ids in the data."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "AMENDMENTS",
    "CELLS_JSON_KEY",
    "CELLS_KEY",
    "CHUNKS",
    "CHUNK_INDEX_KEY",
    "CHUNK_OFFSETS_KEY",
    "CHUNK_SUMMARY_KEY",
    "CONFIG_KEY",
    "EXPERIMENTS_KEY",
    "FAILURES",
    "FORMAT_VERSION",
    "GARBAGE",
    "GENE_LIST_KEY",
    "HVG_KEY",
    "HVG_PLOT_KEY",
    "PLAN_KEY",
    "PRESENCE_KEY",
    "PROCESSING_KEY",
    "QC_CELLS_KEY",
    "QC_GENES_KEY",
    "QC_GENE_LIST_KEY",
    "QC_INDEX_KEY",
    "QC_KEY",
    "QC_PLOT_KEY",
    "RECEIPTS",
    "RUNS",
    "SUCCESS_KEY",
    "amendment_key",
    "chunk_key",
    "claim_key",
    "failure_key",
    "garbage_key",
    "genes_key",
    "index_blocks_key",
    "index_key",
    "is_amendment",
    "receipt_chunks",
    "receipt_key",
    "receipts_from",
    "run_end_key",
    "run_record",
    "run_start_key",
    "survey_key",
]

FORMAT_VERSION: Final = 1
"""Of everything under DEST. Readers accept this and older ones."""

PLAN_KEY: Final = "_ingest/plan.json"
RECEIPTS: Final = "_ingest/receipts/"
AMENDMENTS: Final = "_ingest/amendments/"
FAILURES: Final = "_ingest/failures/"
RUNS: Final = "_ingest/runs/"
GARBAGE: Final = "_ingest/gc/"
CHUNKS: Final = "chunks/"
GENE_LIST_KEY: Final = "gene_list.json"
CHUNK_INDEX_KEY: Final = "chunk_index.json"
CHUNK_OFFSETS_KEY: Final = "chunk_offsets.feather"
CHUNK_SUMMARY_KEY: Final = "chunk_summary.json"
PROCESSING_KEY: Final = "processing_config.json"
CONFIG_KEY: Final = "config.json"
EXPERIMENTS_KEY: Final = "metadata/experiments.json"
CELLS_KEY: Final = "metadata/cells.feather"
CELLS_JSON_KEY: Final = "metadata/cells.json"
PRESENCE_KEY: Final = "metadata/presence.npz"
SUCCESS_KEY: Final = "_SUCCESS.json"
HVG_KEY: Final = "hvg_info.json"
HVG_PLOT_KEY: Final = "hvg_analysis.png"
QC_KEY: Final = "qc.json"
QC_PLOT_KEY: Final = "qc.png"
QC_CELLS_KEY: Final = "qc_cells.feather"
QC_GENES_KEY: Final = "qc_genes.feather"
QC_INDEX_KEY: Final = "qc_index.feather"
QC_GENE_LIST_KEY: Final = "qc_genes.txt"

_MOST_TOGETHER = 1 << 17
"""Chunks that one receipt may cover."""

_RECEIPT = re.compile(r"_ingest/receipts/([0-9]{1,18})-([0-9]{1,18})\.json\Z")
_AMENDMENT = re.compile(r"_ingest/amendments/[0-9]{6,}\.json\Z")
_RUN_RECORD = re.compile(r"_ingest/runs/([^/]+)/((?:start|end|unit-[0-9]+)\.json)\Z")


def index_key(digest: str) -> str:
    """Return the key of the exact cells in plan order."""
    return f"_ingest/index-{digest}.feather"


def index_blocks_key(digest: str) -> str:
    """Return the key of the digests by which parts of the index are checked."""
    return f"_ingest/index-{digest}.blocks"


def survey_key(digest: str) -> str:
    """Return the key of what the sources looked like."""
    return f"_ingest/survey-{digest}.feather"


def genes_key(digest: str) -> str:
    """Return the key of the ordered genes, which workers read before any chunk exists."""
    return f"_ingest/genes-{digest}.json"


def chunk_key(chunk: int, digits: int, suffix: str) -> str:
    """Return the key of chunk number `chunk`; `digits` is fixed by the plan so that keys sort by number."""
    return f"{CHUNKS}chunk_{chunk:0{digits}d}{suffix}"


def receipt_key(first: int, last: int) -> str:
    """Return the key of the receipt that covers chunks `first` to `last`, inclusive."""
    return f"{RECEIPTS}{first:09d}-{last:09d}.json"


def receipt_chunks(key: str) -> range | None:
    """Return the chunks that the receipt at `key` covers, or None when `key` is no receipt's.

    Nor is it one that would cover more than any unit has: names are counted up before anybody reads what has them.
    """
    found = _RECEIPT.match(key)
    if found is None:
        return None
    chunks = range(int(found[1]), int(found[2]) + 1)
    return chunks if len(chunks) <= _MOST_TOGETHER else None


def receipts_from(block: int, zeros: int) -> str:
    """Return the prefix of all receipts whose first chunk is in ``[block * 10**zeros, (block + 1) * 10**zeros)``."""
    return f"{RECEIPTS}{block:0{9 - zeros}d}" if zeros < 9 else RECEIPTS


def failure_key(attempt: str, ordinal: int) -> str:
    """Return the key of the `ordinal`-th failure of one attempt."""
    return f"{FAILURES}{attempt}-{ordinal:03d}.json"


def amendment_key(number: int) -> str:
    """Return the key of the amendment with this number."""
    return f"{AMENDMENTS}{number:06d}.json"


def is_amendment(key: str) -> bool:
    """Return whether `key` is an amendment's: file managers leave files of their own in every folder."""
    return _AMENDMENT.match(key) is not None


def claim_key(run_id: str, unit_id: int) -> str:
    """Return the key by which a worker says that it has begun a unit; for ``status`` only, it locks nothing."""
    return f"{RUNS}{run_id}/unit-{unit_id:07d}.json"


def run_start_key(run_id: str) -> str:
    """Return the key of who started which version when."""
    return f"{RUNS}{run_id}/start.json"


def run_end_key(run_id: str) -> str:
    """Return the key of how the run ended."""
    return f"{RUNS}{run_id}/end.json"


def run_record(key: str) -> tuple[str, str] | None:
    """Return the run and the name of its record at `key`, or None when `key` is no run's."""
    found = _RUN_RECORD.match(key)
    return (found[1], found[2]) if found else None


def garbage_key(marking_id: str) -> str:
    """Return the key of one marking of what no receipt names."""
    return f"{GARBAGE}{marking_id}.json"
