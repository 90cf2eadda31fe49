"""What operations say when they are asked to be verbose: a line on stderr, so that stdout stays for results."""

from __future__ import annotations

import sys

__all__ = ["say"]


def say(text: str, *, verbose: bool = True) -> None:
    """Write a line to stderr, if `verbose`."""
    if verbose:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 # it is what verbose means
