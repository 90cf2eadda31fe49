"""Uploads in parts, continued where they broke off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ingest.errors import NotFoundError, TransientError
from ingest.store.gcs_answers import description
from ingest.store.gcs_errors import explain

if TYPE_CHECKING:
    from ingest.retry import Retrier
    from ingest.store.action import Action
    from ingest.store.body import Body
    from ingest.store.gcs_http import GCSClient, Reply

__all__ = ["ResumableUpload"]

_CONTINUE = 308


class _SessionEndedError(Exception):
    """Trying this session again is no use; a new one may do."""


class ResumableUpload:
    """One session of GCS' resumable protocol; its condition was given, and is kept, where it was started.

    Parameters
    ----------
    client, action
        Who sends, and what errors say.
    session_url
        Where the upload goes; a bearer of rights, so it is kept out of every message.
    body
        The bytes, more than none.
    part_bytes
        Size of a part, a multiple of 256 KiB.
    """

    def __init__(self, client: GCSClient, action: Action, session_url: str, body: Body, part_bytes: int) -> None:
        self._client, self._action, self._session_url = client, action, session_url
        self._body, self._part_bytes = body, part_bytes
        self._at = 0

    def run(self, retrier: Retrier) -> dict[str, Any]:
        """Send all parts and return the object's description.

        Raises
        ------
        AlreadyExistsError, PreconditionError
            The condition no longer holds.
        TransientError
            The budget of a part is spent, or the session has ended.
        """
        while True:
            try:
                found = retrier.call(self._step)
            except _SessionEndedError as error:
                raise TransientError(
                    f"{self._action.where}: the upload session has ended", kind="upload-gone"
                ) from error
            if found is not None:
                return found

    def _step(self, earlier: int) -> dict[str, Any] | None:
        """Send the next part; after a failed try, or when none is left, ask first how far the upload has come."""
        if earlier or self._at >= len(self._body):
            found = self._advance(self._send(f"bytes */{len(self._body)}", None))
            if found is not None:  # the reply to the last part was lost; the object is there and it is this one
                return found
        before = self._at
        if before >= len(self._body):
            raise self._waiting("has all bytes, and has made no object of them yet")
        part = self._body[before : before + self._part_bytes]
        found = self._advance(self._send(f"bytes {before}-{before + len(part) - 1}/{len(self._body)}", [part]))
        if found is None and self._at <= before:
            raise self._waiting("has kept nothing of a part")
        return found

    def _waiting(self, said: str) -> TransientError:
        """Return what lets the store be asked again after a pause, and not for ever."""
        return TransientError(f"{self._action.where}: the upload {said}", kind="store-busy", key=self._action.key)

    def _send(self, content_range: str, body: list[memoryview] | None) -> Reply:
        return self._client.send("PUT", self._session_url, headers={"Content-Range": content_range}, body=body)

    def _advance(self, reply: Reply) -> dict[str, Any] | None:
        if reply.status == _CONTINUE:
            match = re.fullmatch(r"bytes=0-(\d+)", reply.headers.get("Range", ""))
            self._at = int(match.group(1)) + 1 if match else 0
            return None
        if reply.status in (200, 201):
            return description(reply, self._action)
        error = explain(reply, self._action)
        if reply.status in (404, 410) or isinstance(error, NotFoundError):
            raise _SessionEndedError
        raise error
