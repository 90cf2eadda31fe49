"""What ``ray job submit --working-dir .`` takes along of a clone, by Ray's own packing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[2]
MOST_BYTES = 5_000_000


def test_only_the_packages_and_settings_are_uploaded(tmp_path):
    archive = tmp_path / "upload.zip"
    create_package(str(ROOT), archive, include_gitignore=True, excludes=[".git", ".venv"])
    with zipfile.ZipFile(archive) as upload:
        names = upload.namelist()
    packages = {
        f"{package}/{path.relative_to(ROOT / package)}"
        for package in ("ingest", "index", "actors")
        for path in (ROOT / package).rglob("*.py")
    }
    assert packages <= set(names)
    others = {name for name in names if name.split("/")[0] not in ("ingest", "index", "actors")}
    assert all(Path(name).suffix in (".toml", ".txt") for name in others), others
    assert not any("__pycache__" in name for name in names)
    assert archive.stat().st_size < MOST_BYTES
