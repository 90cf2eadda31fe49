"""One small read of every distinct source before planning."""
