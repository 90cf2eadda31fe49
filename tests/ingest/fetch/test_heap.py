"""Freed memory stays with the process: counted in page faults, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from ingest.fetch.heap import keep_freed_memory
    assert keep_freed_memory() and keep_freed_memory()

def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [np.ones(3 << 20, np.uint8) for _ in range(8)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

work()
print(work())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_memory_freed_is_used_again():
    def faults(mode: str) -> int:
        # A fixed threshold switches off glibc's own adaptation, so that both start from what is known.
        environment = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "PYTHONPATH": ":".join(sys.path)}
        run = subprocess.run([sys.executable, "-c", _FAULTS, mode], check=True, capture_output=True, env=environment)
        return int(run.stdout)

    given_back, kept = faults("plain"), faults("kept")
    assert given_back > 20 * 8 * 700  # 3 MiB are 768 pages
    assert kept < given_back / 100
