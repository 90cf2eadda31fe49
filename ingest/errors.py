"""The error tree, grouped by what a handler does about each.

::

    IngestError
    ├── ConfigError      stop: the request or the environment is wrong          exit 2
    │   ├── CredentialsError    a store or source wants other credentials
    │   ├── EmptySelectionError nothing would be ingested
    │   ├── NoColumnError       a KeyError: a table lacks the column asked for
    │   ├── UnfitError          a ValueError: what is to be written does not fit the file
    │   ├── DiskFullError       no space left: nothing that was asked for is wrong   exit 1
    │   ├── IncompleteError     what is asked wants the whole dataset           exit 3
    │   └── VersionMismatchError a worker has another build than the driver     exit 1
    ├── SourceError      record, skip, count: the source's data are at fault
    │   ├── SourceChangedError  the pinned version is gone or has moved
    │   ├── NoFileError         a FileNotFoundError: there is no such file
    │   ├── AbsentError         a KeyError: the file lacks the table or entry asked for
    │   ├── NoMatrixError       a ValueError: the file lacks the matrix asked for
    │   ├── NotCountsError      values that are no counts (NaN, negative, fractional, …)
    │   ├── LabelsError         a ValueError: labels or gene names are not what is asked of them
    │   └── HostileFileError    a file that must not be opened any further
    ├── TransientError   retry with back-off: it may go through later
    ├── CorruptError     make again: bytes at rest or in flight are damaged
    ├── ExhaustedError   make less at once, in a new process: this one has no memory, threads or files left
    └── ConflictError    refuse: what is there is not ours to overwrite
        ├── AlreadyExistsError  a create-only write met an object
        ├── PreconditionError   a conditional replace met another version
        └── ForeignPlanError    DEST holds another plan
    NotFoundError        a LookupError of the stores; only a 404 is one

Every error has a stable, append-only ``kind``, pickles (it crosses Ray) and carries where it happened.
``str(error)`` is one line: what and where; ``hint`` is at most one more: what to do.
"""

from __future__ import annotations

import os
import re
from typing import ClassVar

__all__ = [
    "AbsentError",
    "AlreadyExistsError",
    "ConfigError",
    "ConflictError",
    "CorruptError",
    "CredentialsError",
    "DiskFullError",
    "EmptySelectionError",
    "ExhaustedError",
    "ForeignPlanError",
    "HostileFileError",
    "IncompleteError",
    "IngestError",
    "LabelsError",
    "NoColumnError",
    "NoFileError",
    "NoMatrixError",
    "NotCountsError",
    "NotFoundError",
    "PreconditionError",
    "SourceChangedError",
    "SourceError",
    "TransientError",
    "UnfitError",
    "VersionMismatchError",
    "mask_secrets",
]

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_SIGNED = re.compile(
    r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|Signature|sig|upload_id|token|access_token)=[^&\s'\"]+"
)
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|x-amz-security-token|access_token|refresh_token|private_key|SecretAccessKey"
    r"|SessionToken)(['\"]?\s*[:>]\s*b?)(\"[^\"]*\"|'[^']*'|[^\r\n<]+)"
)
_BEARER = re.compile(r"(?i)\b(Bearer|AWS4-HMAC-SHA256)\s+[A-Za-z0-9._~+/=-]+[^'\"\r\n<]*")
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN")
_LEAST_SECRET = 16
"""Characters: shorter ones are words, of look-alikes that take anything."""


def mask_secrets(text: str) -> str:
    """Replace by ``***`` what `text` must not say: user info and signatures in URLs, credentials in headers and bodies.

    What this process's environment holds as a secret is replaced wherever it stands: stores send requests back in
    what they answer.
    """
    for name in _SECRET_VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= _LEAST_SECRET and secret in text:
            text = text.replace(secret, "***")
    text = _SIGNED.sub(r"\1=***", _USERINFO.sub("***@", text))
    return _BEARER.sub(r"\1 ***", _HEADER.sub(r"\1\2***", text))


class IngestError(Exception):
    """Base of everything this project raises on purpose.

    Parameters
    ----------
    message
        One line: what is wrong, and where.
    kind
        Stable identifier of this very rule, kebab-case; defaults to the class's own.
    hint
        One line: what the person can do.
    source, chunk, key
        Where: the source URL, the chunk number, the store key.
    """

    default_kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        kind: str | None = None,
        hint: str | None = None,
        source: str | None = None,
        chunk: int | None = None,
        key: str | None = None,
    ) -> None:
        self.message = mask_secrets(" ".join(message.split()))
        self.kind = kind or self.default_kind
        self.hint = None if hint is None else mask_secrets(" ".join(hint.split()))
        self.source = None if source is None else mask_secrets(source)
        self.chunk = chunk
        self.key = key
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own reduce replays positional arguments only and would lose every keyword.
        return _rebuild, (type(self), self.message, self._where())

    def _where(self) -> dict[str, object]:
        return {"kind": self.kind, "hint": self.hint, "source": self.source, "chunk": self.chunk, "key": self.key}


def _rebuild(cls: type[IngestError], message: str, where: dict[str, object]) -> IngestError:
    return cls(message, **where)  # type: ignore[arg-type]  # the dict is _where()'s own


class ConfigError(IngestError):
    """The request, its arguments or the environment are wrong; nothing was done."""

    default_kind = "config"
    exit_code = 2


class CredentialsError(ConfigError):
    """No credentials, expired ones, or ones that lack a permission."""

    default_kind = "credentials"


class EmptySelectionError(ConfigError):
    """The selection holds no cells."""

    default_kind = "empty-selection"


class NoColumnError(ConfigError, KeyError):
    """A table has no such column; one of Python's own, for callers that know nothing of this project."""

    default_kind = "unknown-column"


class UnfitError(ConfigError, ValueError):
    """What is to be written does not fit the file, or no h5ad holds such; a ValueError, for the same callers."""

    default_kind = "unfit"


class DiskFullError(ConfigError):
    """No space is left where it is to be written; a person can make some, and nothing that was asked for is wrong."""

    default_kind = "disk-full"
    exit_code = 1


class IncompleteError(ConfigError):
    """Chunks are missing, and what was asked for wants all of them."""

    default_kind = "incomplete"
    exit_code = 3


class VersionMismatchError(ConfigError):
    """A worker runs another build of this package, or on other libraries, than the driver."""

    default_kind = "version-mismatch"
    exit_code = 1


class SourceError(IngestError):
    """The source's own data are at fault: the chunks that need them are held back, others go on."""

    default_kind = "source"


class SourceChangedError(SourceError):
    """The source is no longer the version that was surveyed."""

    default_kind = "source-changed"


class NoFileError(SourceError, FileNotFoundError):
    """There is no such file; one of Python's own, for callers that know nothing of this project."""

    default_kind = "no-such-file"


class AbsentError(SourceError, KeyError):
    """The file lacks the table or entry asked for; a KeyError, for the same callers."""

    default_kind = "absent"


class NoMatrixError(SourceError, ValueError):
    """The file does not have the matrix asked for, or not as such a one; a ValueError, for the same callers."""

    default_kind = "no-matrix"


class NotCountsError(SourceError):
    """The matrix holds values that are no counts."""

    default_kind = "not-counts"


class LabelsError(SourceError, ValueError):
    """Labels of cells or names of genes are not what is asked of them; a ValueError, for the same callers."""

    default_kind = "labels"


class HostileFileError(SourceError):
    """The file breaks a structural rule that protects this process."""

    default_kind = "hostile-file"


class TransientError(IngestError):
    """It may go through later; `retry_after_s` is the server's own wish, in seconds."""

    default_kind = "transient"

    def __init__(
        self,
        message: str,
        *,
        kind: str | None = None,
        hint: str | None = None,
        source: str | None = None,
        chunk: int | None = None,
        key: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, kind=kind, hint=hint, source=source, chunk=chunk, key=key)
        self.retry_after_s = retry_after_s

    def _where(self) -> dict[str, object]:
        return {**super()._where(), "retry_after_s": self.retry_after_s}


class CorruptError(IngestError):
    """Bytes at rest or in flight are not what their digest says."""

    default_kind = "corrupt"


class ExhaustedError(IngestError):
    """No memory, threads or open files are left to this process; nothing is known to be wrong with what it read."""

    default_kind = "out-of-memory"


class ConflictError(IngestError):
    """Something else is there already; it is never overwritten."""

    default_kind = "conflict"


class AlreadyExistsError(ConflictError):
    """A create-only write met an existing object."""

    default_kind = "already-exists"


class PreconditionError(ConflictError):
    """A conditional replace or delete met another version than the one examined."""

    default_kind = "precondition"


class ForeignPlanError(ConflictError):
    """DEST holds a plan that differs from the one asked for."""

    default_kind = "foreign-plan"


class NotFoundError(IngestError, LookupError):
    """The key is absent: the store said so (a 404), it is not inferred from anything else."""

    default_kind = "not-found"
