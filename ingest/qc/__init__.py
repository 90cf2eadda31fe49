"""Quality control of a finished dataset: metrics, rules that drop, and what a second run takes."""
