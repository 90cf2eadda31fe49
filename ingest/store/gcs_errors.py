"""Say what the answers of GCS' JSON API mean, in the project's own tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.errors import (
    ConfigError,
    CorruptError,
    CredentialsError,
    IngestError,
    NotFoundError,
    TransientError,
)
from ingest.retry import retry_after_s
from ingest.store.action import CREDENTIALS_EXPIRED, explain_denial
from ingest.store.gcs_answers import other_answer
from ingest.store.gcs_http import NO_CREDENTIALS_HINT

if TYPE_CHECKING:
    from ingest.store.action import Action
    from ingest.store.gcs_http import Reply

__all__ = ["explain"]

_RATE_LIMITS = {"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"}


def explain(reply: Reply, action: Action) -> IngestError:
    """Return what an answer of status 300 or more means; the caller raises it."""
    message, reason = _message(reply)
    said = f"{reply.status} on {action.name}{': ' if reason else ''}{reason}"
    if reply.status == 412:
        return action.refused(f"{action.where} exists or has changed ({said})", key=action.key)
    if reply.status < 400:  # this API sends nobody elsewhere
        return other_answer(reply, action)
    if reply.status in (408, 429) or reply.status >= 500 or reason in _RATE_LIMITS:
        wish = retry_after_s(reply.headers.get("Retry-After"))
        kind = "throttled" if reply.status in (403, 429, 503) else "store-busy"
        return TransientError(f"{action.where}: {said}", kind=kind, key=action.key, retry_after_s=wish)
    if reply.status == 404:
        return _absent(message, action)
    if reply.status == 416:
        return CorruptError(f"{action.where} ends before the range asked for", kind="short-read", key=action.key)
    if reply.status in (401, 403):
        return _explain_refusal(reply.status, said, action)
    if reply.status == 400 and _is_about_checksum(message):
        return CorruptError(f"{action.where}: damaged on its way ({said})", kind="checksum-mismatch", key=action.key)
    hint = "use a bucket whose owner pays" if "requester pays" in message.lower() else None
    return ConfigError(f"{action.where}: refused ({said}) {message}", kind="store-refused", hint=hint, key=action.key)


def _absent(message: str, action: Action) -> IngestError:
    # An upload or a listing answers 404 for one reason only; a GET names the bucket when that is what is missing.
    if action.verb in ("write", "list") or "bucket does not exist" in message:
        hint = "create it first, or check the name and the endpoint"
        return ConfigError(f"{action.url}: there is no such bucket", kind="no-bucket", hint=hint)
    return NotFoundError(f"{action.where} does not exist", key=action.key)


def _explain_refusal(status: int, said: str, action: Action) -> IngestError:
    if status == 401:
        message = f"{action.url} does not accept these credentials ({said}); credentials came from {action.credentials}"
        return CredentialsError(message, kind=CREDENTIALS_EXPIRED, hint=NO_CREDENTIALS_HINT)
    return explain_denial(action, said, "storage.objects.create, .get and .list on this bucket")


def _is_about_checksum(message: str) -> bool:
    lower = message.lower()
    return any(word in lower for word in ("md5", "crc32c", "checksum"))


def _message(reply: Reply) -> tuple[str, str]:
    """Return the message and the reason of an error answer; JSON, or whatever a proxy said."""
    error: Any = reply.json().get("error")
    if not isinstance(error, dict):
        return str(error or reply.body[:200].decode(errors="replace")), ""
    causes = error.get("errors")
    first = next((one for one in causes if isinstance(one, dict)), {}) if isinstance(causes, list) else {}
    return str(error.get("message") or ""), str(first.get("reason") or "")
