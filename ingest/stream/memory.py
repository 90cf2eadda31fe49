"""The memory that this process may still take: what the machine has left, or what its control groups leave if less.

A container or a batch job is killed at the limit of its control group, of which ``/proc/meminfo`` knows nothing. Both
hierarchies are read: version 2 (``memory.max``) and version 1 (``memory.limit_in_bytes``), and every group above the
process's own, each of which may be the narrower. Format: "Control Group v2" and "Memory Resource Controller" in the
kernel's documentation. All sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["available_memory", "cgroup_room"]

_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Names:
    """Files of a group, and the line of its statistics that tells what the kernel gives back at once."""

    limit: str
    usage: str
    given_back: str


_VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")
_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> int:
    """Return the bytes that this process may still take without being killed or made to swap.

    Parameters
    ----------
    membership, mount
        Where the kernel says which groups this process is in, and where those are.
    """
    room = cgroup_room(membership, mount)
    machine = int(psutil.virtual_memory().available)
    return machine if room is None else min(machine, room)


def cgroup_room(membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> int | None:
    """Return what the control groups leave, 0 at least; None where none of them has a limit, or there are none.

    The page cache of files not in use counts as room: the kernel takes it back before it kills.
    """
    rooms = [room for group, names in _groups(membership, mount) if (room := _room(group, names)) is not None]
    return max(0, min(rooms)) if rooms else None


def _groups(membership: Path, mount: Path) -> Iterator[tuple[Path, _Names]]:
    try:
        lines = membership.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            yield from ((group, _VERSION_2) for group in _upwards(mount, path))
        elif "memory" in controllers.split(","):
            yield from ((group, _VERSION_1) for group in _upwards(mount / "memory", path))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the group and those above it; only `root` is there where a container has a view of its own."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:count])


def _room(group: Path, names: _Names) -> int | None:
    limit, usage = _number(group / names.limit), _number(group / names.usage)
    if limit is None or usage is None:  # "max" is no number: no limit
        return None
    return limit - max(0, usage - _statistic(group / "memory.stat", names.given_back))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


def _statistic(file: Path, name: str) -> int:
    try:
        lines = file.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    value = values.get(name, "0").strip()
    return int(value) if value.isdecimal() else 0
