"""Where chunks and receipts go: one small façade over a folder, S3 and GCS."""
