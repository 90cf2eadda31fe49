"""What TileDB-SOMA's one exception means: it has a text, and the text has an HTTP code or a cause in words."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ingest.errors import ConfigError, CredentialsError, IngestError, SourceError, TransientError
from ingest.exhausted import exhausted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.source import Source

__all__ = ["explain", "soma_errors"]

_CODE = re.compile(r"\[HTTP Response Code: (-?\d+)\]")
_AWS = re.compile(r"\[Exception: (\w+)\]")
_NOISE = re.compile(
    r"\[(?:Error Type|HTTP Response|Remote IP|Request ID|Headers|Exception)[^\]]*\]|\[TileDB::\w+\] Error: "
)
_DENIED = re.compile(r"AccessDenied|InvalidAccessKey|SignatureDoesNotMatch|ExpiredToken|OAuth2 access", re.IGNORECASE)
_NETWORK = re.compile(r"curlCode|CURL error|timeout|timed out|connection|SlowDown|Retry policy", re.IGNORECASE)
_ABSENT = re.compile(r"does not exist|NoSuchBucket|NoSuchKey|not a valid TileDB|No such file", re.IGNORECASE)
_BUDGET = re.compile(r"memory budget|memory_limit", re.IGNORECASE)


@contextmanager
def soma_errors(source: Source) -> Iterator[None]:
    """Raise what TileDB-SOMA raises inside as errors of this project, naming `source`."""
    import tiledbsoma

    try:
        yield
    except IngestError:
        raise
    # Its own error, and what its bindings let through: std::exception, bad values from Python's side of it.
    except (tiledbsoma.SOMAError, RuntimeError, MemoryError, ValueError, IndexError, KeyError, OSError) as error:
        raise explain(error, source) from error


def explain(error: BaseException, source: Source) -> IngestError:
    """Return the error of this project that says what `error`, raised while reading `source`, means."""
    text = str(error)
    code = int(found[1]) if (found := _CODE.search(text)) else 0
    where = str(source)
    message = f"{where}: {_short(text) or type(error).__name__}"
    if (spent := exhausted(error, where)) is not None:
        return spent
    if _BUDGET.search(text):
        hint = "give workers more --memory, or start fewer"
        return ConfigError(message, kind="soma-memory", hint=hint, source=where)
    if code in {401, 403} or _DENIED.search(text):
        hint = "check the credentials in the environment; without any, the objects must be public"
        return CredentialsError(message, kind="access-denied", hint=hint, source=where)
    if code in {-1, 408, 429} or code >= 500 or isinstance(error, OSError) or (code == 0 and _NETWORK.search(text)):
        return TransientError(message, kind="network", source=where)
    if code == 404 or _ABSENT.search(text):
        return SourceError(message, kind="soma-missing", hint="is the address right, the copy whole?", source=where)
    return SourceError(message, kind="soma-read", source=where)


def _short(text: str) -> str:
    name = found[1] if (found := _AWS.search(text)) else ""
    text = " ".join(_NOISE.sub("", text).split())
    return f"{name}: {text}"[:300].rstrip() if name else text[:300].rstrip()
