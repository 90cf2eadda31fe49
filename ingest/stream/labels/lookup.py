"""Symbols of gene ids, asked of MyGene.info by its own client, which is optional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["look_up_symbols"]

_BATCH = 1_000
"""Ids a request: the most that MyGene.info answers."""


def look_up_symbols(ids: Sequence[str], species: str) -> dict[str, str]:
    """Return the symbols that MyGene.info knows for Ensembl ids without versions; ids that it does not know are absent.

    Of several genes for one id, the best match is taken.

    Parameters
    ----------
    ids
        Distinct.
    species
        A common name (``human``, ``mouse``, …) or a taxonomy number.

    Raises
    ------
    ImportError
        mygene is not installed.
    TransientError
        The service does not answer (kind ``lookup``).
    """
    client = _client()
    symbols: dict[str, str] = {}
    for start in range(0, len(ids), _BATCH):
        for hit in _ask(client, list(ids[start : start + _BATCH]), species):
            if isinstance(symbol := hit.get("symbol"), str) and symbol:
                symbols.setdefault(str(hit.get("query")), symbol)  # the best match comes first
    return symbols


def _client() -> Any:
    try:
        import mygene
    except ModuleNotFoundError as error:
        raise ImportError(
            "looking up symbols needs mygene: pip install 'cell-ingest[symbols]'", name="mygene"
        ) from error
    return mygene.MyGeneInfo()


def _ask(client: Any, ids: list[str], species: str) -> list[dict[str, Any]]:
    try:
        answer: list[dict[str, Any]] = client.querymany(
            ids, scopes="ensembl.gene", fields="symbol", species=species, verbose=False
        )
    except Exception as error:  # whatever the client's own HTTP library raises
        raise TransientError(
            f"MyGene.info does not answer ({type(error).__name__}: {error})",
            kind="lookup",
            hint="run it again, or without looking symbols up",
        ) from error
    return answer
