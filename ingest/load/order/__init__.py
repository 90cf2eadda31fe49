"""Which cells come when: pure functions of a seed, an epoch and a rank, which see no cell."""
