"""What exists: plan, receipts, failures and runs under ``DEST/_ingest``."""
