"""Operations on one h5ad file, before or after ingestion, in memory that does not grow with it."""
