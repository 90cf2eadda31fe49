"""benchmarks/results.json: what was measured, when, by which command, on what; the report is made from it alone."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.values import Row

__all__ = ["Results", "Section", "machine_facts", "medians", "ratios"]

_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's rows and where they come from."""

    rows: tuple[Row, ...]
    command: str
    """What makes them again."""
    when: str
    commit: str
    """Of the code measured; ends in ``+`` where files differed from it."""
    seconds: float
    """How long the measuring took."""


@dataclass(frozen=True, slots=True)
class Results:
    """All sections measured so far, each in its latest state."""

    machine: Mapping[str, Any]
    sections: Mapping[str, Section]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format_version"] != _FORMAT_VERSION:
            raise ValueError(f"{path} has format {found['format_version']}, not {_FORMAT_VERSION}: measure again")
        sections = {
            name: Section(**{**section, "rows": tuple(section["rows"])}) for name, section in found["sections"].items()
        }
        return cls(found["machine"], sections)

    def write(self, path: Path) -> None:
        """Write all of it, one row a line: differences are then read in a commit."""
        sections = [f" {json.dumps(name)}: {_section_text(section)}" for name, section in sorted(self.sections.items())]
        head = f'{{"format_version": {_FORMAT_VERSION},\n"machine": {json.dumps(dict(self.machine))},\n"sections": {{\n'
        path.write_text(head + ",\n".join(sections) + "\n}}\n", encoding="utf-8")

    def with_section(self, name: str, rows: Sequence[Row], command: str, seconds: float) -> Results:
        """Return results in which `name` is what was measured just now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        section = Section(tuple(rows), command, now, _commit(), round(seconds, 1))
        return Results(self.machine, {**self.sections, name: section})

    def rows(self, name: str, **wanted: Any) -> list[Row]:
        """Return the rows of a section with these values; none where it was not measured."""
        section = self.sections.get(name)
        rows = section.rows if section else ()
        return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def _section_text(section: Section) -> str:
    facts = {"command": section.command, "when": section.when, "commit": section.commit, "seconds": section.seconds}
    rows = ",\n   ".join(json.dumps(row) for row in section.rows)
    return f'{json.dumps(facts)[:-1]}, "rows": [\n   {rows}]}}'


def _commit() -> str:
    root = Path(__file__).resolve().parents[1]
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "ingest", "actors"],
            cwd=root,
            capture_output=True,
            text=True,
        )
    except OSError:  # no git here
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"


def machine_facts(folder: Path) -> dict[str, Any]:
    """Describe the machine in general words; nothing that names it."""
    return {
        "cpus": os.cpu_count() or 1,
        "cpu_model": _cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "filesystem": _filesystem(folder),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _filesystem(folder: Path) -> str:
    around = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return max(around, key=lambda part: len(part.mountpoint)).fstype if around else "unknown"


def medians(rows: Iterable[Row], key: str) -> float:
    """Return the median of `key` over rows."""
    return float(median(float(row[key]) for row in rows))


def ratios(ones: Sequence[Row], others: Sequence[Row], value: Callable[[Row], float]) -> list[float]:
    """Return `value` of one over the other for every round in which both were measured."""
    by_round = {row["round"]: row for row in others}
    return [value(row) / value(by_round[row["round"]]) for row in ones if row["round"] in by_round]
