"""Blocks to chunk files and back: ``decode(encode(block)) == block``."""
