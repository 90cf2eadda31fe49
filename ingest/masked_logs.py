"""Clients of object stores log whole requests at their lowest level, session tokens and signatures included.

Whoever turns that on to see why a bucket refuses sends the log to somebody else.
"""

from __future__ import annotations

import logging

from ingest.errors import mask_secrets

__all__ = ["mask_logs"]

_LOGGERS = (
    *(
        f"{package}.{module}"
        for package in ("botocore", "aiobotocore")
        for module in ("auth", "endpoint", "parsers", "hooks", "httpsession", "httpchecksum", "awsrequest", "client")
    ),
    *("botocore.credentials", "botocore.utils", "botocore.retryhandler", "urllib3.connectionpool"),
    *("s3fs", "gcsfs", "gcsfs.core", "gcsfs.credentials", "fsspec", "fsspec.http", "google.auth.transport.requests"),
)
"""A filter sees what is logged by this very logger, not by those below it."""


class _Masking(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        masked = mask_secrets(message)
        if masked != message:
            record.msg, record.args = masked, None
        return True


_MASKING = _Masking()


def mask_logs() -> None:
    """Have the clients' loggers mask secrets from now on; called again, do nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_MASKING)
