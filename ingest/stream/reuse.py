"""Outputs that say what they were made of, so that they are taken again, made anew, or left alone.

An operation notes in uns where its input was, its version and the settings. The same of all three: the output is what
is wanted. The same input otherwise: it is made anew. Another input: it is somebody else's, and is not overwritten.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.errors import AlreadyExistsError, ConfigError, SourceError
from ingest.stream.labels.annotations import annotated
from ingest.stream.output import made_from

__all__ = ["Origin", "now_text", "origin_of", "uns_key"]


_UNFIT = re.compile(r"[/\0]|%(?:00|25|2E|2F)")
"""What is encoded, and what would be taken for something encoded."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an output is made of."""

    original_path: str
    original_version: str
    """Size and time of modification."""
    settings: str
    """JSON of what shaped it."""

    @property
    def address(self) -> str:
        """Of the original, as files say what they were made from."""
        return self.original_path if "://" in self.original_path else Path(self.original_path).as_uri()

    def notes(self) -> dict[str, str]:
        """Return what is noted in uns."""
        return {
            "original_path": self.original_path,
            "original_version": self.original_version,
            "settings": self.settings,
        }

    def is_there(self, output: Path, entry: str, *, replace: bool = False) -> bool:
        """Tell whether `output` has been made of this already; `entry` of its uns says so.

        Parameters
        ----------
        replace
            Whatever else is there, may be written over.

        Raises
        ------
        ConfigError
            It is the input itself (kind ``bad-path``).
        AlreadyExistsError
            It is there and was made of something else.
        """
        if str(output.resolve()) == self.original_path:
            raise ConfigError(f"{output} is the input; it is not written over", kind="bad-path")
        if not output.exists():
            return False
        noted = _noted(output, entry)
        is_ours = noted.get("original_path") == self.original_path or made_from(output) == self.address
        if not (is_ours or replace):
            raise AlreadyExistsError(
                f"{output} is there already, and not made of {self.original_path}",
                hint="remove it, or write elsewhere",
            )
        return all(noted.get(name) == text for name, text in self.notes().items())


def origin_of(source: Path | str, version: str, **settings: Any) -> Origin:
    """Return what an output of `source`, a path or a URL that was read at `version`, with these settings is made of."""
    address = str(source) if "://" in str(source) else str(Path(source).resolve())
    return Origin(address, version, json.dumps(settings, sort_keys=True))


def now_text() -> str:
    """Return the time, UTC, to seconds, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def uns_key(label: str) -> str:
    """Return `label` as a key of uns: to HDF5 ``/`` is a step into a group, ``.`` the group itself, empty no name.

    In labels with such characters they, and ``%``, are percent-encoded; all others stay.
    """
    if label in ("", "."):
        return "%2E" if label else "%"
    if not _UNFIT.search(label) and label != "%":
        return label
    return label.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")


def _noted(output: Path, entry: str) -> dict[str, str]:
    try:
        with annotated(output) as given:
            return given.note(entry)
    except SourceError:
        return {}  # no h5ad, or a damaged one: not ours
