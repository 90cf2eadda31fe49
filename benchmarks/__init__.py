"""How fast, at what cost, beside what: ``python -m benchmarks`` measures, docs/performance.md shows."""
