"""One conversion into memory-mapped arrays, in a process of its own and in its own environment.

``python -m benchmarks.memmap_child MODULE HOW SOURCE ARCHIVE`` imports `MODULE` of this package and has its
``convert(how, source, archive)`` work. Says ``ready`` before and ``done`` after that and waits for an answer each time,
so that whoever looks at memory, CPU and bytes sees all of it and nothing else; last comes its row as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import time


def main(module: str, how: str, source: str, archive: str) -> int:
    """Convert, and print the row."""
    start = time.monotonic()
    convert = importlib.import_module(f"benchmarks.{module}").convert
    import_s = time.monotonic() - start
    _say("ready")
    start = time.monotonic()
    convert(how, source, archive)
    seconds = time.monotonic() - start
    _say("done")
    print(json.dumps({"import_s": round(import_s, 3), "seconds": round(seconds, 3)}), flush=True)
    return 0


def _say(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
