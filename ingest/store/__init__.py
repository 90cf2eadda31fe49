"""Where chunks and receipts go: one small façade over a folder, S3 and GCS."""

from __future__ import annotations

from ingest.retry import Budget
from ingest.store.base import ObjectStat, Store
from ingest.store.open import open_store
from ingest.store.probe import check_preconditions

__all__ = ["Budget", "ObjectStat", "Store", "check_preconditions", "open_store"]
