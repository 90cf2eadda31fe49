"""What the CPU must be able to do, asked before a library that assumes it ends the process."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from ingest.errors import ConfigError

__all__ = ["available_cpus", "require_avx2"]

_BUILD = (
    "build TileDB-SOMA for this CPU: git clone https://github.com/single-cell-data/TileDB-SOMA.git; "
    "pip install -v -e TileDB-SOMA/apis/python"
)


def available_cpus() -> int:
    """Return the CPUs that this process may use: those of the machine, or fewer (taskset, a cpuset of a container)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_avx2(
    cpuinfo: Path = Path("/proc/cpuinfo"),
    *,
    system: str = sys.platform,
    machine: str | None = None,
    built_here: bool | None = None,
) -> None:
    """Refuse an x86-64 Linux without AVX2: there the wheels of tiledbsoma die of an illegal instruction on import.

    Elsewhere (ARM, macOS), where the kernel does not tell, or with a tiledbsoma built from source, nothing is refused.

    Parameters
    ----------
    cpuinfo
        The kernel's description of the CPUs.
    system, machine
        As ``sys.platform`` and ``platform.machine()`` say.
    built_here
        Whether tiledbsoma was built from a source folder; pip's own record by default.

    Raises
    ------
    ConfigError
        ``cpu-no-avx2``.
    """
    if system != "linux" or (machine or platform.machine()) not in {"x86_64", "AMD64"}:
        return
    flags = _flags(cpuinfo)
    if flags and "avx2" not in flags and not (_built_from_source() if built_here is None else built_here):
        raise ConfigError(
            "this CPU has no AVX2, which the published builds of tiledbsoma need", kind="cpu-no-avx2", hint=_BUILD
        )


def _flags(cpuinfo: Path) -> frozenset[str]:
    """Return the flags of the first CPU; none where the file is missing or says nothing."""
    try:
        text = cpuinfo.read_text("utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _built_from_source() -> bool:
    """Return whether pip recorded a folder as tiledbsoma's origin (PEP 610): built here, for this CPU."""
    try:
        record = metadata.distribution("tiledbsoma").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return False
    return record is not None and "dir_info" in json.loads(record)
