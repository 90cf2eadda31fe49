"""Whether an answer is of the range that was asked for."""

from __future__ import annotations

import re

__all__ = ["AnotherRangeError", "check_range"]

_ASKED = re.compile(r"bytes=(\d+)-(\d*)")
_SAID = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_WHOLE, _PARTIAL = 200, 206


class AnotherRangeError(Exception):
    """The answer is of other bytes, or does not say of which; `ingest.fetch.h5ad_remote.remote_error` has its words."""


def check_range(asked: str | None, said: str | None, status: int, n_bytes: int | None = None) -> None:
    """Refuse an answer of other bytes than those asked for.

    Parameters
    ----------
    asked
        The request's ``Range``; any answer will do where it is None or counts from the end.
    said
        The answer's ``Content-Range`` (RFC 9110, section 14.4).
    status
        Of the answer: errors are nobody's range, and a whole object (200) begins with its beginning.
    n_bytes
        Of the answer, where it says so before it is read. A whole object of another length than was asked for is left
        to who counts, and knows that its server serves no ranges.

    Raises
    ------
    AnotherRangeError
        It is of other bytes, of fewer though there are more, or does not say of which.
    """
    wanted = _ASKED.fullmatch(asked.replace(" ", "")) if asked else None
    if wanted is None or status not in (_WHOLE, _PARTIAL):
        return
    start, stop = int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else None
    if said is None and status == _WHOLE:
        shows = n_bytes is not None and stop is not None and n_bytes != stop - start
        if start == 0 or shows:
            return
    came = _SAID.fullmatch(said.strip()) if said else None
    if came is not None and int(came[1]) == start:
        end = int(came[2]) + 1
        if end == stop or (came[3] == str(end) and (stop is None or end < stop)):
            return
    raise AnotherRangeError(f"{said or 'no range'} came, where {asked} was asked for")
