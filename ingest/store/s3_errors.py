"""Say what S3's and botocore's errors mean, in the project's own tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import urllib3
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from ingest.errors import (
    ConfigError,
    CorruptError,
    CredentialsError,
    IngestError,
    NotFoundError,
    TransientError,
)
from ingest.retry import retry_after_s
from ingest.store.action import CREDENTIALS_EXPIRED, explain_denial, is_range

if TYPE_CHECKING:
    from ingest.store.action import Action

__all__ = ["CAUGHT", "check_range", "explain", "page_of", "status_and_code", "with_fields"]

CAUGHT = (boto.ClientError, boto.BotoCoreError, ResponseParserError, urllib3.exceptions.HTTPError, OSError)
"""What a call of boto3 can raise for reasons outside this program."""

_WHOLE = 200
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_UNKNOWN_IDENTITY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthorizationHeaderMalformed"}
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
_BUSY = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "ConditionalRequestConflict",
}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.SSOError,
)
_CREDENTIALS_HINT = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is attached"


def status_and_code(error: boto.ClientError) -> tuple[int, str]:
    """Return the HTTP status and S3's error code."""
    reply = cast("dict[str, Any]", error.response)
    status = reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(reply.get("Error", {}).get("Code", ""))


def with_fields(reply: Any, action: Action, *names: str) -> dict[str, Any]:
    """Return a reply that has all these fields: login pages and proxies answer 200, too, and botocore lets them.

    Raises
    ------
    TransientError
        It is something else (kind ``other-answer``).
    """
    missing = next((name for name in names if name not in reply), None)
    if missing is not None:
        raise _other_answer(action, f"without {missing}")
    return cast("dict[str, Any]", reply)


def page_of(reply: Any, action: Action) -> dict[str, Any]:
    """Return a page of a listing, whole: another document would pass for an empty one.

    Raises
    ------
    TransientError
        It is something else, or goes on and does not say where.
    """
    page = with_fields(reply, action, "IsTruncated")
    for entry in page.get("Contents", []):
        with_fields(entry, action, "Key", "Size", "ETag")
    return with_fields(page, action, "NextContinuationToken") if page["IsTruncated"] else page


def check_range(reply: dict[str, Any], action: Action, start: int, length: int) -> None:
    """Refuse other bytes of the same length; all of them from the first on need not be called a range.

    Raises
    ------
    TransientError
        They are, or nothing says which (kind ``other-answer``).
    """
    said = reply.get("ContentRange")
    if said is None and start == 0 and reply["ResponseMetadata"]["HTTPStatusCode"] == _WHOLE:
        return
    if not is_range(said, start, length):
        raise _other_answer(action, f"{said or 'no range'}, where bytes from {start} on were asked for")


def _other_answer(action: Action, said: object) -> TransientError:
    return TransientError(
        f"{action.where}: an answer to {action.name} that is not the store's ({said})",
        kind="other-answer",
        hint="a proxy or a login page may be in between",
        key=action.key,
    )


def explain(error: Exception, action: Action) -> IngestError:
    """Return what `error` means; the caller raises it."""
    if isinstance(error, boto.ClientError):
        return _explain_reply(error, action)
    if isinstance(error, _NO_CREDENTIALS):
        return CredentialsError(
            f"no usable credentials for {action.url} ({error})", kind="no-credentials", hint=_CREDENTIALS_HINT
        )
    if isinstance(error, boto.FlexibleChecksumError):
        return CorruptError(f"{action.where}: the bytes fail their checksum", kind="checksum-mismatch", key=action.key)
    if isinstance(error, (boto.ParamValidationError, boto.InvalidRegionError, boto.UnknownEndpointError)):
        return ConfigError(f"{action.where}: {error}", kind="store-refused", key=action.key)
    if isinstance(error, ResponseParserError):
        return _other_answer(action, "no XML")
    if isinstance(error, (boto.IncompleteReadError, boto.ResponseStreamingError)):
        return TransientError(f"{action.where}: the answer broke off ({error})", kind="truncated", key=action.key)
    return TransientError(f"{action.where}: no answer to {action.name} ({error})", kind="unreachable", key=action.key)


def _explain_reply(error: boto.ClientError, action: Action) -> IngestError:
    status, code = status_and_code(error)
    reply = cast("dict[str, Any]", error.response)
    said = f"{status} on {action.name}{': ' if code else ''}{code}"
    if status == 412 or code == "PreconditionFailed":
        return action.refused(f"{action.where} exists or has changed ({said})", key=action.key)
    if code in _DAMAGED:
        return CorruptError(f"{action.where}: damaged on its way ({said})", kind="checksum-mismatch", key=action.key)
    if code in _BUSY or status in (408, 429) or (status >= 500 and status != 501):
        headers = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        wish = retry_after_s(headers.get("retry-after"))
        kind = "throttled" if status in (429, 503) or code == "SlowDown" else "store-busy"
        return TransientError(f"{action.where}: {said}", kind=kind, key=action.key, retry_after_s=wish)
    if code == "NoSuchBucket":
        hint = "create it first, or check the name and the endpoint"
        return ConfigError(f"{action.url}: there is no such bucket", kind="no-bucket", hint=hint)
    if status == 404:
        return NotFoundError(f"{action.where} does not exist", key=action.key)
    if status == 416:
        return CorruptError(f"{action.where} ends before the range asked for", kind="short-read", key=action.key)
    if status in (401, 403) or code in _EXPIRED | _UNKNOWN_IDENTITY:
        return _explain_refusal(code, said, action)
    if status == 400 and action.name == "HeadObject":
        return _explain_silence(said, action)
    if status == 501:
        hint = "use a store that honours preconditions and checksums"
        return ConfigError(f"{action.where}: not supported ({said})", kind="store-unsupported", hint=hint)
    message = reply.get("Error", {}).get("Message", "")
    return ConfigError(f"{action.where}: refused ({said}) {message}", kind="store-refused", key=action.key)


def _explain_silence(said: str, action: Action) -> IngestError:
    # To a HEAD nothing but the status is answered, and a token that has expired is what S3 answers so.
    return CredentialsError(
        f"{action.where}: refused without a reason ({said}), as credentials for {action.url} are that have expired;"
        f" they came from {action.credentials}",
        kind=CREDENTIALS_EXPIRED,
        hint="renew them, then run the same command to go on",
        key=action.key,
    )


def _explain_refusal(code: str, said: str, action: Action) -> IngestError:
    source = f"credentials came from {action.credentials}"
    if code in _EXPIRED:
        hint = "renew them, then run the same command to go on"
        return CredentialsError(
            f"credentials for {action.url} have expired ({said}); {source}", kind=CREDENTIALS_EXPIRED, hint=hint
        )
    if code in _UNKNOWN_IDENTITY:
        return CredentialsError(
            f"{action.url} does not know these credentials ({said}); {source}", kind="bad-credentials"
        )
    if code == "RequestTimeTooSkewed":
        return ConfigError(f"{action.url}: this machine's clock is wrong ({said})", kind="clock-skew", hint="set it")
    return explain_denial(action, said, "s3:PutObject, s3:GetObject and s3:ListBucket on this prefix")
