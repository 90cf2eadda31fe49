"""Gene vocabularies and the mapping of one onto another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.record_fields import each, is_count, is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ABSENT", "GENE_FIELDS", "Genes"]

GENE_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "ids": each(is_text),
    "names": each(is_text),
    "lengths": each(is_count),
}
"""What a document of genes must hold."""

ABSENT = -1
"""In a gene map: this source column is not wanted."""


@dataclass(frozen=True)
class Genes:
    """An ordered gene vocabulary: column j of a matrix is gene ``ids[j]``; ids are unique."""

    ids: tuple[str, ...]
    """Feature ids, usually Ensembl (``var["feature_id"]`` of Census), in column order."""
    names: tuple[str, ...]
    """Feature names (symbols), not unique; the id where the source has none."""
    lengths: tuple[int, ...]
    """Feature lengths in base pairs; 0 where the source does not say."""

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.names) == len(self.lengths):
            raise ValueError(f"{len(self.ids)} ids, {len(self.names)} names, {len(self.lengths)} lengths")
        if len(self._positions) != len(self.ids):
            seen: set[str] = set()
            double = next(gene for gene in self.ids if gene in seen or seen.add(gene))  # type: ignore[func-returns-value]
            raise ValueError(f"gene id {double!r} stands twice")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {gene: column for column, gene in enumerate(self.ids)}

    @cached_property
    def digest(self) -> str:
        """sha256 over ids in order, hex; names and lengths are annotations and do not count."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def __contains__(self, gene: object) -> bool:
        return gene in self._positions

    def position(self, gene: str) -> int:
        """Return the column of `gene`, or ``ABSENT``."""
        return self._positions.get(gene, ABSENT)

    def take(self, columns: Sequence[int]) -> Genes:
        """Return the genes at `columns`, in that order."""
        return Genes(
            tuple(self.ids[j] for j in columns),
            tuple(self.names[j] for j in columns),
            tuple(self.lengths[j] for j in columns),
        )

    def map_onto(self, target: Genes) -> np.ndarray[Any, np.dtype[np.int32]] | None:
        """Return for each of these columns its column in `target` or ``ABSENT``: int32 ``(len(self),)``.

        ``None`` stands for the identity: the vocabularies are equal in ids and order.
        """
        if self.ids == target.ids:
            return None
        return np.fromiter((target.position(gene) for gene in self.ids), np.int32, len(self.ids))
