"""Highly variable genes of a finished dataset: exact sums over its chunks, and the flavours that choose by them."""
