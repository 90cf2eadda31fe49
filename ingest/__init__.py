"""Carry single-cell counts from where they lie to chunks that are ready to train from.

``index`` says which cells, ``ingest`` brings them, ``actors`` does it in parallel.
"""

__version__ = "0.1.0"
