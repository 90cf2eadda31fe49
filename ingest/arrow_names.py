"""Names of an Arrow file's columns, which Arrow takes to be any bytes, and Python only text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_names"]


def check_names(fields: Iterable[pa.Field]) -> None:
    """Refuse names that are no UTF-8: each way to ask for one raises a UnicodeDecodeError later.

    Parameters
    ----------
    fields
        A schema; fields inside of them are looked at as well.

    Raises
    ------
    pa.ArrowInvalid
        One of them is none.
    """
    for field in fields:
        try:
            _ = field.name
        except UnicodeDecodeError as error:
            raise pa.ArrowInvalid(f"a column's name is no UTF-8: {error.object!r}") from error
        kind = field.type
        check_names(kind.field(at) for at in range(kind.num_fields))
