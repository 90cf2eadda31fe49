"""Genes numbered alike for several datasets, so that one model learns from all of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ingest.documents import parse, readable
from ingest.errors import AlreadyExistsError, ConfigError, CorruptError, NotFoundError
from ingest.genes import ABSENT, Genes
from ingest.vocabulary import GeneRule, dataset_genes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["CLS", "MASK", "PAD", "UNK", "GeneVocabulary", "HasGenes"]

PAD, MASK, CLS, UNK = "<pad>", "<mask>", "<cls>", "<unk>"
_SPECIAL = (PAD, MASK, CLS)


class HasGenes(Protocol):
    """A dataset: whatever has genes."""

    @property
    def genes(self) -> Genes:
        """The columns, in order."""
        ...


@dataclass(frozen=True)
class GeneVocabulary:
    """Special tokens, then genes: token t stands for ``(special + ids)[t]``.

    Raises
    ------
    ConfigError
        ``bad-vocabulary``: a token that stands twice.
    """

    ids: tuple[str, ...]
    """Gene ids, as the datasets have them, usually Ensembl."""
    special: tuple[str, ...] = _SPECIAL
    """Tokens that are no genes, numbered from 0. With ``<unk>`` among them, unknown genes have its number."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "special", tuple(self.special))
        if len(self._numbers) < len(self):
            seen: set[str] = set()
            double = next(token for token in (*self.special, *self.ids) if token in seen or seen.add(token))  # type: ignore[func-returns-value]
            raise ConfigError(f"token {double!r} stands twice in the vocabulary", kind="bad-vocabulary")

    @classmethod
    def from_datasets(
        cls,
        datasets: Iterable[HasGenes | Genes],
        *,
        align: Literal["union", "intersection"] = "union",
        unknown: Literal["drop", "unk"] = "drop",
    ) -> GeneVocabulary:
        """Return a vocabulary of the genes of any, or of all, of `datasets`: as the first has them, and then others.

        Parameters
        ----------
        datasets
            Opened datasets, or their genes.
        unknown
            What becomes of genes of datasets that come later: left out, or all the token ``<unk>``.

        Raises
        ------
        EmptySelectionError
            The datasets have no gene in common.
        ConfigError
            ``bad-vocabulary``: no datasets.
        """
        genes = [dataset if isinstance(dataset, Genes) else dataset.genes for dataset in datasets]
        if not genes:
            raise ConfigError("a vocabulary of no datasets", kind="bad-vocabulary", hint="name one at least")
        special = (*_SPECIAL, UNK) if unknown == "unk" else _SPECIAL
        return cls(dataset_genes(genes, GeneRule(align=align)).ids, special)

    def __len__(self) -> int:
        return len(self.special) + len(self.ids)

    def __contains__(self, token: object) -> bool:
        return token in self._numbers

    def __repr__(self) -> str:
        return f"GeneVocabulary({len(self.ids):,} genes after {', '.join(self.special) or 'nothing'})"

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate((*self.special, *self.ids))}

    def token(self, gene: str) -> int:
        """Return the number of a gene id or special token; of unknown ones that of ``<unk>``, or -1 without it."""
        return self._numbers.get(gene, self._numbers.get(UNK, ABSENT))

    def tokens(self, genes: HasGenes | Genes | Sequence[str]) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the number of every column of a dataset, or of these gene ids: int32 ``(n_genes,)``; see `token`."""
        known = genes.genes if hasattr(genes, "genes") else genes
        ids = known.ids if isinstance(known, Genes) else known
        return np.fromiter((self.token(gene) for gene in ids), np.int32, len(ids))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON, all of it or nothing.

        Raises
        ------
        AlreadyExistsError
            Another vocabulary is there: models that were trained with it would read other genes into their tokens.
        """
        target = Path(path)
        if target.exists():
            if GeneVocabulary.load(target) != self:
                message = f"{target} holds another vocabulary, and models may go by it"
                raise AlreadyExistsError(message, hint="save under another name, or remove it first")
            return
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        partial.write_bytes(readable({"special": list(self.special), "genes": list(self.ids)}))
        partial.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GeneVocabulary:
        """Read what `save` wrote.

        Raises
        ------
        NotFoundError
            There is no such file.
        CorruptError
            It is not a vocabulary, or of a newer format.
        """
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no vocabulary at {path}") from error
        document = parse(data, key=str(path))
        try:
            return cls(_texts(document, "genes", path), _texts(document, "special", path))
        except ConfigError as error:
            raise CorruptError(f"{path}: {error}", key=str(path)) from error


def _texts(document: dict[str, Any], name: str, path: object) -> tuple[str, ...]:
    texts = document.get(name)
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise CorruptError(f"{path} is no vocabulary: it has no list of texts {name!r}", key=str(path))
    return tuple(texts)
