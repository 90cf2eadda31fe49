"""The genes that `hvg` chose, read from ``hvg_info.json`` in their order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ingest.errors import ConfigError, CorruptError, NotFoundError
from ingest.layout import HVG_KEY
from ingest.record_fields import check_fields, each, is_text
from ingest.store.open import open_store

if TYPE_CHECKING:
    from ingest.load.cells import Cells

__all__ = ["chosen_hvgs"]


def chosen_hvgs(cells: Cells, n_hvgs: int | None = None, *, source: str | None = None) -> tuple[str, ...]:
    """Return ids of the first `n_hvgs` highly variable genes, the most variable first; None: all that were chosen.

    Parameters
    ----------
    source
        Where hvg_info.json is, if not in the first dataset: what ``hvg --output-dir`` was given.

    Raises
    ------
    ConfigError
        They have not been chosen yet, or fewer were.
    CorruptError
        The file is damaged.
    """
    url = source or cells.place
    store = open_store(url, endpoint_url=cells.endpoint_url)
    try:
        document = json.loads(store.get(HVG_KEY))
        check_fields(document, {"hvg_names": each(is_text)})
        names = tuple(document["hvg_names"])
    except NotFoundError as error:
        raise ConfigError(
            f"{url} has no {HVG_KEY}",
            kind="no-hvgs",
            hint=f"`python -m ingest hvg {url} --n-hvgs {n_hvgs or 2000}` chooses highly variable genes",
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{url}/{HVG_KEY} is damaged ({error})", kind="bad-summary", key=HVG_KEY) from error
    finally:
        store.close()
    if n_hvgs is not None and len(names) < n_hvgs:
        raise ConfigError(
            f"{url} has {len(names):,} highly variable genes, not {n_hvgs:,}",
            kind="few-hvgs",
            hint=f"`python -m ingest hvg {url} --n-hvgs {n_hvgs} --force` chooses more",
        )
    return names[:n_hvgs]
