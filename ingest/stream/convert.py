"""One file's X as CSC or CSR, everything else carried along, in memory that does not grow with the file."""

from __future__ import annotations

import logging

__all__ = ["convert_to_csc", "convert_to_csr"]

_LOG = logging.getLogger(__name__)
