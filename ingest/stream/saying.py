"""What operations say when they are asked to be verbose: a line on stderr, so that stdout stays for results."""

from __future__ import annotations

import logging
import sys

from ingest.json_lines import json_lines_are_on, log_event

__all__ = ["say"]

_log = logging.getLogger(__name__)


def say(text: str, *, verbose: bool = True) -> None:
    """Write a line to stderr, if `verbose`."""
    if verbose and json_lines_are_on():
        log_event(_log, "note", text)
    elif verbose:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 # it is what verbose means
