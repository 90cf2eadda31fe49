"""One request to GCS and its plain answer: gcsfs brings the session and the credentials, nothing else.

gcsfs' own requests are tried again up to six times behind one's back, ignore ``Retry-After``, and tell a missing
object from a missing bucket by nothing; its writes know ``ifGenerationMatch=0`` alone, and not on every path. So one
coroutine is added to its file system, which sends a request once and returns status, headers and body.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode, urlsplit

# Read by gcsfs when it is imported: the experimental file system asks every bucket for its layout, 60 s each.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import aiohttp
import google.auth.exceptions
from fsspec.asyn import sync
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError, NonRetryableError
from yarl import URL

from ingest.errors import CredentialsError, IngestError, TransientError
from ingest.masked_logs import mask_logs
from ingest.store.body import pieces

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from ingest.bandwidth import Line

__all__ = ["NO_CREDENTIALS_HINT", "GCSClient", "Reply"]

NO_CREDENTIALS_HINT = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"

mask_logs()

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """What the store answered."""

    status: int
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body as an object; empty when it is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


class _FileSystem(GCSFileSystem):  # type: ignore[misc]  # gcsfs has no types
    """gcsfs' file system with one more coroutine."""

    async def exchange(
        self, method: str, url: str, headers: dict[str, str], body: Sequence[memoryview] | None, line: Line
    ) -> Reply:
        session = await self._set_session()
        size = 0 if body is None else sum(len(part) for part in body)
        # Encoded already: yarl would unquote what needs no quoting, and a key may hold anything.
        async with session.request(
            method,
            URL(url, encoded=True),
            headers=self._get_headers({**headers, "Content-Length": str(size)}),
            data=None if body is None else _stream(body, line),
            timeout=_TIMEOUT,
            allow_redirects=False,
        ) as answer:
            return Reply(answer.status, answer.headers.copy(), await answer.read())


async def _stream(body: Sequence[memoryview], line: Line) -> AsyncIterator[memoryview]:
    # In pieces: aiohttp copies and warns about large bodies given whole.
    for part in body:
        for piece in pieces(part, _PIECE_BYTES):
            if delay_s := line.delay_s(len(piece)):
                await asyncio.sleep(delay_s)
            yield piece


class GCSClient:
    """Requests to one GCS endpoint.

    Parameters
    ----------
    endpoint_url
        Of a look-alike; it gets no credentials unless it is one of Google's own hosts.
    url
        Of the store, for messages.
    line
        What all bytes pass.

    Raises
    ------
    CredentialsError
        None were found.
    """

    def __init__(self, endpoint_url: str | None, url: str, line: Line) -> None:
        self._url, self._line = url, line
        self._fs = self._connect(endpoint_url)
        self.base = (endpoint_url or cast("str", self._fs._location)).rstrip("/")

    def object_url(self, bucket: str, name: str, **query: str) -> str:
        """Return the address of an object, or of a bucket's list of them for an empty `name`."""
        tail = f"/{quote(name, safe='')}" if name else ""
        return f"{self.base}/storage/v1/b/{bucket}/o{tail}{_query(query)}"

    def upload_url(self, bucket: str, **query: str) -> str:
        """Return the address that uploads to `bucket` start from."""
        return f"{self.base}/upload/storage/v1/b/{bucket}/o{_query(query)}"

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        body: Sequence[memoryview] | None = None,
    ) -> Reply:
        """Send one request once and return the answer, whatever its status.

        Raises
        ------
        TransientError
            No complete answer came (``unreachable``, ``truncated``).
        CredentialsError
            The credentials cannot be refreshed.
        """
        self._line.begin()
        try:
            reply = sync(self._fs.loop, self._fs.exchange, method, url, headers or {}, body, self._line)
        except (aiohttp.ClientPayloadError, asyncio.IncompleteReadError) as error:
            raise TransientError(f"{self._url}: the answer broke off ({error})", kind="truncated") from error
        except (aiohttp.ClientError, TimeoutError, OSError, google.auth.exceptions.TransportError) as error:
            message = f"{self._url}: no answer to {method} ({error or type(error).__name__})"
            raise TransientError(message, kind="unreachable") from error
        except (google.auth.exceptions.GoogleAuthError, HttpError, NonRetryableError) as error:
            raise _not_renewable(self._url, error) from error
        self._line.owe(len(reply.body))
        return cast("Reply", reply)

    def renew(self) -> None:
        """Fetch the credentials afresh."""
        try:
            self._fs.credentials.connect(self._fs.credentials.token)
        except (google.auth.exceptions.GoogleAuthError, ValueError) as error:
            raise _not_renewable(self._url, error) from error

    @property
    def identity(self) -> str:
        """Say where the credentials come from; never what they are."""
        found = self._fs.credentials.credentials
        if found is None:
            return "nowhere (anonymous)"
        return str(getattr(found, "service_account_email", None) or "the application default credentials")

    def close(self) -> None:
        """Close the connections."""
        session = self._fs._session
        if session is not None:
            sync(self._fs.loop, session.close)
            self._fs._session = None

    def _connect(self, endpoint_url: str | None) -> _FileSystem:
        host = urlsplit(endpoint_url).hostname or "" if endpoint_url else "googleapis.com"
        token = "google_default" if f".{host}".endswith(".googleapis.com") else "anon"
        try:
            return _FileSystem(
                token=token,
                access="read_write",
                endpoint_url=endpoint_url,
                use_listings_cache=False,
                skip_instance_cache=True,
            )
        except (google.auth.exceptions.GoogleAuthError, ValueError, OSError) as error:
            raise CredentialsError(
                f"no usable credentials for {self._url} ({error})", kind="no-credentials", hint=NO_CREDENTIALS_HINT
            ) from error


def _not_renewable(url: str, error: Exception) -> IngestError:
    message = f"credentials for {url} cannot be refreshed ({error})"
    return CredentialsError(message, kind="credentials-expired", hint=NO_CREDENTIALS_HINT)


def _query(query: dict[str, str]) -> str:
    return f"?{urlencode(query, quote_via=quote, safe='')}" if query else ""
