"""The environments that other loaders run in: of the versions pinned beside this file, in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["PeerPythons", "find_python", "peer_python"]

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class PeerPythons:
    """The interpreters of the environments, by the version of Python that they are of."""

    py311: Path
    py312: Path | None
    """None where no Python 3.12 is to be had: annbatch is left out then."""

    @classmethod
    def make(cls, python312: Path | None) -> PeerPythons:
        """Make what is missing."""
        newer = python312 or find_python("3.12")
        if newer is None:
            print("no Python 3.12 on PATH (--python312 names one): annbatch is left out", file=sys.stderr)
        return cls(peer_python("3.11", Path(sys.executable)), peer_python("3.12", newer) if newer else None)

    def of(self, version: str) -> Path | None:
        """Return the interpreter for ways that need `version`."""
        return {"3.11": self.py311, "3.12": self.py312}[version]


def find_python(version: str) -> Path | None:
    """Return an interpreter of that version on PATH which runs (a version manager's stand-in may not), or None."""
    found = shutil.which(f"python{version}")
    if found is None:
        return None
    said = subprocess.run([found, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
    return Path(said.stdout.strip()) if said.returncode == 0 else None


def peer_python(version: str, base: Path) -> Path:
    """Return the interpreter of the environment for peers of that version, installing it the first time (minutes).

    Raises
    ------
    RuntimeError
        It could not be installed.
    """
    wanted = _HERE / f"peers-{version}.txt"
    name = f"{version}-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]}"
    folder = user_cache_path("cell-ingest") / "peers" / name
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    print(f"installing {wanted.name} into {folder} (some minutes, once)", file=sys.stderr, flush=True)
    commands = (
        [str(base), "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(wanted)],
    )
    for command in commands:
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {ran.returncode}: {ran.stderr.strip()[-500:]}")
    done.touch()
    return python
