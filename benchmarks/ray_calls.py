"""``python -m benchmarks.ray_calls``: what Ray asks of the driver for a call, and for looking at many under way.

CPU time of the driver's process, on a local Ray; the actor does nothing.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import ray

from actors.calls import settled
from benchmarks.bench import connected_ray

_PENDING = (100, 300, 1_000)
_CALLS = 200
_LOOKS = 20


class Idle:
    """Answers at once, or never."""

    def answer(self) -> int:
        """Return a number."""
        return 1

    def block(self) -> None:
        """Never return."""
        threading.Event().wait()


def main() -> int:
    """Print a line of JSON for every number of calls under way."""
    with connected_ray(1):
        remote: Any = ray.remote(num_cpus=0)(Idle)
        quick, blocked = remote.remote(), remote.remote()
        ray.get(quick.answer.remote())
        for number in _PENDING:
            pending = [blocked.block.remote() for _ in range(number)]
            start, cpu = time.perf_counter(), time.process_time()
            for _ in range(_LOOKS):
                settled(pending)
            wall, looked = (time.perf_counter() - start) / _LOOKS, time.process_time()
            for call in pending:
                settled([call])
            apart = time.process_time()
            ray.get([quick.answer.remote() for _ in range(_CALLS)])
            row = {
                "pending": number,
                "look_ms": wall * 1e3,
                "look_cpu_ms": (looked - cpu) / _LOOKS * 1e3,
                "one_by_one_cpu_ms": (apart - looked) * 1e3,
                "call_cpu_ms": (time.process_time() - apart) / _CALLS * 1e3,
            }
            print(json.dumps({name: round(value, 3) for name, value in row.items()}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
