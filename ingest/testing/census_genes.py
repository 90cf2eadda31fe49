"""Genes of a made-up Census: ids, names, lengths and mean expression with the irregularities of the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ingest.testing.census_labels import ORGANISMS

__all__ = ["CensusGenes", "draw_genes"]

_LETTERS = np.array(list("ABCDEFGHIKLMNPRSTUVXZ"))
_MITOCHONDRIAL = tuple(
    f"MT-{name}"
    for name in ["ND1", "ND2", "ND3", "ND4", "ND4L", "ND5", "ND6", "CO1", "CO2", "CO3", "ATP6", "ATP8", "CYB"]
)
_SEED_GENES = (("ENSG00000161798", "AQP5"), ("ENSG00000139618", "BRCA2"))
"""Two real genes that examples ask for."""

_PROTEIN_CODING = 0.34  # of the 60,530 human genes
_RIBOSOMAL = 80


@dataclass(frozen=True, slots=True, eq=False)
class CensusGenes:
    """Columns ``(n_genes,)`` in joinid order, which like in Census is that of the names and not of the ids."""

    ids: np.ndarray[Any, np.dtype[np.str_]]
    names: np.ndarray[Any, np.dtype[np.str_]]
    """Not unique; the id itself where a gene has no symbol."""
    types: np.ndarray[Any, np.dtype[np.str_]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    """Base pairs."""
    mean: np.ndarray[Any, np.dtype[np.float32]]
    """Relative mean expression: lognormal with a heavy tail."""


def draw_genes(organism: str, n_genes: int, rng: np.random.Generator) -> CensusGenes:
    """Draw `n_genes` genes of `organism`."""
    prefix = ORGANISMS[organism].gene_prefix
    numbers = 3 + rng.choice(max(320_000, 4 * n_genes), n_genes, replace=False)
    ids = np.array([f"{prefix}{number:011d}" for number in numbers])
    coding = rng.random(n_genes) < _PROTEIN_CODING
    names = np.array([_draw_name(gene, is_coding, rng) for gene, is_coding in zip(ids, coding, strict=True)])
    mean = rng.lognormal(np.where(coding, 1.0, -2.2), np.where(coding, 1.9, 1.6))
    _place_abundant(names, coding, mean)
    twice = n_genes // 2 + rng.choice(
        n_genes // 2, max(1, n_genes // 1_000)
    )  # a few symbols belong to two genes, as in Census
    names[twice] = names[twice - 1]
    if organism == "homo_sapiens":
        _place_real(ids, names, coding)
    else:
        names = np.array([_as_mouse(name) for name in names])
    lengths = np.clip(rng.lognormal(np.where(coding, 8.0, 6.6), 0.8), 60, 205_000).astype(np.int64)
    order = np.lexsort((ids, names))
    types = np.where(coding, "protein_coding", "lncRNA")
    return CensusGenes(ids[order], names[order], types[order], lengths[order], mean[order].astype(np.float32))


def _draw_name(gene: str, coding: bool, rng: np.random.Generator) -> str:
    kind = rng.random()
    if not coding and kind < 0.45:
        return gene
    if not coding and kind < 0.7:
        return f"LINC{rng.integers(1, 100_000):05d}"
    stem = "".join(rng.choice(_LETTERS, rng.integers(4, 7)))
    name = f"{stem}{rng.integers(1, 30)}" if kind < 0.9 else stem
    return name if coding else f"{name}-AS1"


def _place_abundant(names: Any, coding: Any, mean: Any) -> None:
    """Give the first genes the names and the abundance of mitochondrial and ribosomal genes, in place."""
    ribosomal = [f"RP{'LS'[number % 2]}{number // 2 + 3}" for number in range(_RIBOSOMAL)]
    known = [*_MITOCHONDRIAL, *ribosomal][: len(names) // 10]
    for place, name in enumerate(known):
        names[place] = name
        coding[place] = True
        mean[place] = 1_500.0 if name.startswith("MT-") else 250.0
    mean[: len(known)] *= np.linspace(0.5, 1.5, len(known))


def _place_real(ids: Any, names: Any, coding: Any) -> None:
    """Give the last genes ids and names that examples can ask for, in place."""
    for place, (gene, name) in enumerate(_SEED_GENES, start=1):
        if gene not in ids:
            ids[-place] = gene
            names[-place] = name
            coding[-place] = True


def _as_mouse(name: str) -> str:
    if name.startswith("MT-"):
        return f"mt-{name[3:].capitalize()}"
    return name if name.startswith("ENS") else name.capitalize()
