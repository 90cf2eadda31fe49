"""How sources on S3 are reached: the usual AWS variables, and anonymously where there are no credentials."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["has_s3_credentials", "s3_endpoint"]


def s3_endpoint(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the look-alike that `environ` (by default this process's) names, None for S3 itself."""
    environ = os.environ if environ is None else environ
    return environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None


def has_s3_credentials() -> bool:
    """Say whether botocore finds credentials; without any, sources must be public."""
    import botocore.session

    return botocore.session.Session().get_credentials() is not None
