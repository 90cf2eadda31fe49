"""What tests of Ray need, and nobody else."""
