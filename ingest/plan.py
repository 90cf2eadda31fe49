"""The plan: which cells go to which chunk, in which order. Pure and immutable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ingest.documents import canonical, sha256_hex, unseal
from ingest.encode.open import check_codec
from ingest.errors import ConfigError, CorruptError
from ingest.layout import PLAN_KEY, chunk_key
from ingest.record_fields import check_fields, each, is_count, is_flag, is_number, is_text, keyed, maybe
from ingest.window_order import parse_order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ingest.window_order import WindowOrder

__all__ = ["Identity", "Plan", "Provenance", "differences", "parse_plan"]


_FORMULA = "log1p(count * target_sum / total of the cell over these genes)"
"""What `ingest.normalize` makes of a count."""

_LATER: dict[str, object] = {"normalize": None}
"""Entries of an identity that plans of earlier builds do not have, and what these stand for."""


@dataclass(frozen=True)  # no slots: the digest, over thousands of sources, is wanted with every receipt
class Identity:
    """What is compared: two plans with equal identities make equal datasets."""

    cells: str
    """Content digest of the cells, all columns, in plan order."""
    n_cells: int
    sources: tuple[str, ...]
    """With their pinned versions, in plan order."""
    matrices: tuple[str, ...]
    """Which matrix of each source."""
    genes: str
    """Digest of the ordered gene ids."""
    n_genes: int
    order: str
    """``source``, or ``window:<cells>:<seed>``."""
    cells_per_chunk: int
    format: str
    dtype: str
    codec: str
    level: int
    allow_noninteger: bool
    normalize: float | None = None
    """What cells' totals are brought to before ``log1p``; None: values are counts (`ingest.normalize`)."""

    @property
    def fractional(self) -> bool:
        """Whether chunks may hold fractions."""
        return self.allow_noninteger or self.normalize is not None

    @property
    def about(self) -> dict[str, Any]:
        """Attributes of every file: how its values were made of counts; none where they are counts."""
        return {} if self.normalize is None else {"normalization": _FORMULA, "target_sum": self.normalize}

    def document(self) -> dict[str, Any]:
        """Return it as plan.json holds it: what came later is left out where it says nothing, so that digests last."""
        later = {name for name, usual in _LATER.items() if getattr(self, name) == usual}
        return {name: value for name, value in asdict(self).items() if name not in later}

    @cached_property
    def digest(self) -> str:
        """32 hex digits that name this plan."""
        return sha256_hex(canonical(self.document()))[:32]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is recorded and never compared."""

    created: str
    """UTC, ISO 8601; also the dataset's timestamp."""
    versions: Mapping[str, str]
    """Package -> version, of those that shape data."""
    settings: Mapping[str, Any]
    """Every setting, resolved, as it stood when the plan was made."""
    mixing: Mapping[str, Any] | None = None
    """How mixed the chunks are, of a plan in window order: see `ingest.planning.mixing_facts`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan as plan.json has it: small, because index, survey and genes are files that it names."""

    identity: Identity
    provenance: Provenance
    files: Mapping[str, str]
    """Role (``index``, ``survey``, ``genes``) -> key; each key ends in the digest of the content.

    ``blocks`` are the digests of the index's parts, which plans of earlier builds do not have.
    """
    sha256: Mapping[str, str]
    """Role -> sha256 of the file's bytes."""

    @property
    def windows(self) -> WindowOrder | None:
        """The windows in which rows are mixed; None: cells stand in source order."""
        return parse_order(self.identity.order)

    @property
    def n_cells(self) -> int:
        """Cells in all chunks."""
        return self.identity.n_cells

    @property
    def n_chunks(self) -> int:
        """Number of chunks; only the last may hold fewer than ``cells_per_chunk`` cells."""
        return -(-self.n_cells // self.identity.cells_per_chunk)

    @property
    def digits(self) -> int:
        """Width of the chunk number in keys."""
        return max(6, len(str(self.n_chunks - 1)))

    def rows(self, chunk: int) -> tuple[int, int]:
        """Return the half-open range of plan rows that chunk number `chunk` holds."""
        size = self.identity.cells_per_chunk
        return chunk * size, min((chunk + 1) * size, self.n_cells)

    def key(self, chunk: int) -> str:
        """Return the store key of chunk number `chunk`."""
        return chunk_key(chunk, self.digits, f".{self.identity.format}")

    def document(self) -> dict[str, Any]:
        """Return the plan as plan.json holds it, before sealing."""
        return {
            "identity": self.identity.document(),
            "provenance": {
                name: value for name, value in asdict(self.provenance).items() if value is not None or name != "mixing"
            },
            "files": dict(self.files),
            "sha256": dict(self.sha256),
        }


_IDENTITY_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("cells", "genes", "order", "format", "dtype", "codec"), is_text),
    **dict.fromkeys(("sources", "matrices"), each(is_text)),
    **dict.fromkeys(("n_cells", "cells_per_chunk"), lambda value: is_count(value) and value > 0),
    **dict.fromkeys(("n_genes", "level"), is_count),
    "allow_noninteger": is_flag,
    "normalize": maybe(lambda value: is_number(value) and value > 0),
}
_PROVENANCE_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "created": is_text,
    "versions": keyed(is_text),
    "settings": keyed(lambda _: True),
    "mixing": maybe(keyed(lambda _: True)),
}
_PLAN_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("identity", "provenance"), lambda value: isinstance(value, dict)),
    **dict.fromkeys(
        ("files", "sha256"), lambda value: keyed(is_text)(value) and {"index", "survey", "genes"} <= value.keys()
    ),
}


def parse_plan(data: bytes) -> Plan:
    """Read plan.json.

    Raises
    ------
    CorruptError
        Damaged, edited, of a newer format, or without what a plan must have.
    """
    document = unseal(data, key=PLAN_KEY)
    try:
        check_fields(document, _PLAN_FIELDS)
        check_fields(document["sha256"], dict.fromkeys(document["files"], is_text))
        identity = {**_LATER, **document["identity"]}
        check_fields(identity, _IDENTITY_FIELDS)
        check_fields({"mixing": None, **document["provenance"]}, _PROVENANCE_FIELDS)
        for name in ("sources", "matrices"):
            identity[name] = tuple(identity[name])
        parse_order(identity["order"])
        check_codec(identity["format"], identity["codec"], identity["level"], identity["dtype"])
        return Plan(Identity(**identity), Provenance(**document["provenance"]), document["files"], document["sha256"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CorruptError(f"{PLAN_KEY} is no plan ({error!r})", key=PLAN_KEY) from error


_WORDS = {
    "cells": "cells (which, or their annotations)",
    "n_cells": "cells",
    "n_genes": "genes",
    "genes": "genes (which, or their order)",
    "cells_per_chunk": "cells a chunk",
    "allow_noninteger": "fractional values",
    "normalize": "normalised to totals of",
}


def differences(there: Identity, here: Identity) -> list[str]:
    """Say in which settings two identities differ, in words, most telling first; empty when they are equal."""
    found = {
        field.name: (getattr(there, field.name), getattr(here, field.name))
        for field in fields(Identity)
        if getattr(there, field.name) != getattr(here, field.name)
    }
    # A digest says nothing to a person where the number beside it differs already, and that of cells is of their order.
    for digest, number in (("cells", "n_cells"), ("genes", "n_genes"), ("cells", "sources"), ("cells", "order")):
        if number in found:
            found.pop(digest, None)
    return [_phrase(name, *pair) for name, pair in found.items()]


def _phrase(name: str, there: object, here: object) -> str:
    word = _WORDS.get(name, name)
    if name in {"cells", "genes"}:
        return f"{word} differ"
    if isinstance(there, tuple) and isinstance(here, tuple):
        only_there, only_here = [x for x in there if x not in here], [x for x in here if x not in there]
        if not only_there and not only_here:
            return f"{word}: the same, in another order"
        return f"{word}: {_some(only_there)} there, {_some(only_here)} here"
    if isinstance(there, int) and not isinstance(there, bool):
        return f"{word} {there:,} there, {here:,} here"
    there, here = ("none" if value is None else value for value in (there, here))
    return f"{word} {there} there, {here} here"


def _some(names: list[str]) -> str:
    if not names:
        return "none other"
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
