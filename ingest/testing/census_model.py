"""What a made-up Census holds: genes, cells and the expression each cell is drawn from. Pure, and seeded.

The model of counts: every dataset x cell type x donor has an expression profile (a heavy-tailed mean per gene, times
the markers of the type, times the donor's own variation); a cell has a library size, lognormal around its type's
median; its counts are that many molecules drawn from its profile. Library sizes are scaled so that the mean number of
expressed genes is the one asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.testing.census_counts import expected_genes
from ingest.testing.census_genes import CensusGenes, draw_genes
from ingest.testing.census_labels import ORGANISMS, STUDIES, Study

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CensusSpec", "Dataset", "OrganismModel", "draw_models"]

FORMAT_VERSION = 2
"""Raise it whenever the same spec gives other bytes."""

_MARKERS_PER_TYPE = 0.01
_MARKER_FOLD = 12.0
_LIBRARY_SIGMA = 0.45
_GRID = np.geomspace(10, 1e6, 36)


@dataclass(frozen=True, slots=True)
class CensusSpec:
    """What to build; the same spec gives the same cells and counts."""

    n_cells: int = 30_000
    """Cells of each organism, duplicates included."""
    n_genes: int = 20_000
    """Genes of each organism; human Census has 60,530."""
    mean_nnz_per_cell: int = 1_750
    """Mean number of genes with counts in a cell, met within a few percent."""
    n_datasets: int = 4
    """Datasets of each organism, laid one after the other."""
    organisms: tuple[str, ...] = ("homo_sapiens",)
    """Of ``homo_sapiens`` and ``mus_musculus``."""
    duplicate_fraction: float = 0.1
    """Share of `n_cells` that repeat cells of other datasets, ``is_primary_data`` False; all in the last dataset."""
    seed: int = 0
    """Of everything random."""
    build_date: str = "2026-01-05"
    """What ``census_info/summary`` says."""
    normalized: bool = False
    """Whether to write ``X["normalized"]`` too."""

    def __post_init__(self) -> None:
        unknown = [organism for organism in self.organisms if organism not in ORGANISMS]
        if unknown or not self.organisms:
            raise ValueError(f"organisms {unknown or 'none'}: choose from {', '.join(ORGANISMS)}")
        if not 1 <= self.n_datasets <= self.n_primary:
            raise ValueError(f"{self.n_datasets} datasets of {self.n_primary} primary cells")
        if not 0 <= self.duplicate_fraction < 0.5 or (self.n_duplicates and self.n_datasets == 1):
            raise ValueError("duplicate_fraction is below 0.5, and 0 with a single dataset")
        if not 1 <= self.mean_nnz_per_cell <= 0.4 * self.n_genes:
            raise ValueError(f"{self.mean_nnz_per_cell} non-zeros a cell of {self.n_genes} genes: at most 0.4 of them")

    @property
    def n_duplicates(self) -> int:
        """Cells that repeat others."""
        return int(self.n_cells * self.duplicate_fraction)

    @property
    def n_primary(self) -> int:
        """Cells counted once."""
        return self.n_cells - self.n_duplicates

    @property
    def digest(self) -> str:
        """Of the spec and the version of this model: hex, 16 digits."""
        text = json.dumps([FORMAT_VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One dataset: contiguous cells of one study."""

    dataset_id: str
    joinid: int
    """In ``census_info/datasets``, counted over all organisms."""
    study: Study
    n_cells: int
    measured: np.ndarray[Any, np.dtype[np.bool_]]
    """``(n_genes,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class OrganismModel:
    """Everything about one organism but the counts themselves; cell columns are ``(n_cells,)`` in joinid order."""

    organism: str
    genes: CensusGenes
    datasets: tuple[Dataset, ...]
    dataset: np.ndarray[Any, np.dtype[np.int64]]
    """Position in `datasets`."""
    origin: np.ndarray[Any, np.dtype[np.int64]]
    """Position of the dataset that a cell was first published in; other than `dataset` for duplicates."""
    identity: np.ndarray[Any, np.dtype[np.int64]]
    """Number of the cell itself: a duplicate shares that of its original, and so its counts."""
    donor: np.ndarray[Any, np.dtype[np.int64]]
    """Number of the donor, unique in the organism."""
    cell_type: np.ndarray[Any, np.dtype[np.int64]]
    """Position in the origin study's `cell_types`."""
    choice: np.ndarray[Any, np.dtype[np.int64]]
    """A random number for the labels that vary from cell to cell (assay, site)."""
    profile: np.ndarray[Any, np.dtype[np.int64]]
    """Row of `profiles`."""
    library: np.ndarray[Any, np.dtype[np.int64]]
    """Molecules counted: the cell's ``raw_sum``."""
    profiles: np.ndarray[Any, np.dtype[np.float32]]
    """Probabilities ``(n_profiles, n_genes)``; 0 where not measured."""
    markers: dict[str, np.ndarray[Any, np.dtype[np.int64]]]
    """Marker genes of each cell type, by label."""

    @property
    def is_primary(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether a cell stands in the dataset it was first published in."""
        primary: np.ndarray[Any, np.dtype[np.bool_]] = self.dataset == self.origin
        return primary


def draw_models(spec: CensusSpec) -> Iterator[OrganismModel]:
    """Yield the model of every organism in `spec`, in order."""
    for number, organism in enumerate(spec.organisms):
        rng = np.random.default_rng([spec.seed, number, FORMAT_VERSION])
        yield _draw_model(spec, organism, number * spec.n_datasets, rng)


def _draw_model(spec: CensusSpec, organism: str, first_joinid: int, rng: np.random.Generator) -> OrganismModel:
    genes = draw_genes(organism, spec.n_genes, rng)
    sizes = _dataset_sizes(spec, rng)
    cells = _draw_cells(spec, sizes, rng)
    sizes[-1] += spec.n_duplicates
    datasets = tuple(
        Dataset(_uuid(rng), first_joinid + number, STUDIES[number % len(STUDIES)], int(size), measured)
        for number, (size, measured) in enumerate(zip(sizes, _measured(spec, rng), strict=True))
    )
    keys, profile = np.unique(
        np.stack([cells["origin"], cells["cell_type"], cells["donor"]]), axis=1, return_inverse=True
    )
    profiles, markers = _draw_profiles(keys, datasets, genes, rng)
    library = _scale(cells.pop("relative"), profiles, spec.mean_nnz_per_cell)
    return OrganismModel(
        organism=organism,
        genes=genes,
        datasets=datasets,
        profile=profile.ravel(),
        library=library,
        profiles=profiles,
        markers=markers,
        **cells,
    )


def _uuid(rng: np.random.Generator) -> str:
    digits = rng.bytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _dataset_sizes(spec: CensusSpec, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Draw uneven sizes of at least one cell, without the duplicates."""
    shares = rng.dirichlet(np.full(spec.n_datasets, 20.0))
    sizes = 1 + np.floor(shares * (spec.n_primary - spec.n_datasets)).astype(np.int64)
    sizes[0] += spec.n_primary - sizes.sum()
    return sizes


def _measured(spec: CensusSpec, rng: np.random.Generator) -> Iterator[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Yield which genes each dataset measured; the last has all, so that duplicates equal their originals."""
    for number in range(spec.n_datasets):
        missing = 0.0 if number == spec.n_datasets - 1 else rng.uniform(0.02, 0.15)
        yield rng.random(spec.n_genes) >= missing


def _draw_cells(
    spec: CensusSpec, sizes: np.ndarray[Any, np.dtype[np.int64]], rng: np.random.Generator
) -> dict[str, np.ndarray[Any, Any]]:
    """Draw the cells' columns: donors in runs within a dataset, duplicates scattered over the last."""
    origin = np.repeat(np.arange(spec.n_datasets), sizes)
    donor = np.concatenate([number * 100 + np.sort(rng.integers(0, 8, size)) for number, size in enumerate(sizes)])
    cell_type = np.concatenate([_draw_types(number, size, rng) for number, size in enumerate(sizes)])
    cells: dict[str, np.ndarray[Any, Any]] = {
        "dataset": origin.copy(),
        "origin": origin,
        "identity": np.arange(spec.n_primary),
        "donor": donor,
        "cell_type": cell_type,
        "choice": rng.integers(0, 1 << 30, spec.n_primary),
        "relative": rng.lognormal(0, _LIBRARY_SIGMA, spec.n_primary) * (0.6 + 0.15 * cell_type),
    }
    return _with_duplicates(cells, spec, int(sizes[-1]), rng) if spec.n_duplicates else cells


def _draw_types(dataset: int, size: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    n_types = len(STUDIES[dataset % len(STUDIES)].cell_types)
    return rng.choice(n_types, size, p=rng.dirichlet(np.linspace(9, 2, n_types)))


def _with_duplicates(
    cells: dict[str, np.ndarray[Any, Any]], spec: CensusSpec, n_last: int, rng: np.random.Generator
) -> dict[str, np.ndarray[Any, Any]]:
    n_first = spec.n_primary - n_last
    copied = rng.choice(n_first, spec.n_duplicates, replace=spec.n_duplicates > n_first)
    last = np.concatenate([np.arange(n_first, spec.n_primary), copied])
    order = np.concatenate([np.arange(n_first), rng.permutation(last)])
    taken = {name: column[order] for name, column in cells.items()}
    taken["dataset"][n_first:] = spec.n_datasets - 1
    return taken


def _draw_profiles(
    keys: np.ndarray[Any, np.dtype[np.int64]],
    datasets: tuple[Dataset, ...],
    genes: CensusGenes,
    rng: np.random.Generator,
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], dict[str, np.ndarray[Any, np.dtype[np.int64]]]]:
    """Draw a probability a gene for every (origin, cell type, donor) in the columns of `keys`."""
    n_genes = len(genes.mean)
    types: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    markers: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
    for label in sorted({term.label for dataset in datasets for term in dataset.study.cell_types}):
        markers[label] = np.sort(rng.choice(n_genes, max(3, int(n_genes * _MARKERS_PER_TYPE)), replace=False))
        effect = rng.lognormal(0, 0.4, n_genes).astype(np.float32)
        effect[markers[label]] *= _MARKER_FOLD
        types[label] = effect
    profiles = np.empty((keys.shape[1], n_genes), np.float32)
    for row, (origin, cell_type, _) in enumerate(keys.T):
        label = datasets[origin].study.cell_types[cell_type].label
        varied = genes.mean * types[label] * rng.lognormal(0, 0.25, n_genes).astype(np.float32)
        varied *= datasets[origin].measured
        profiles[row] = varied / varied.sum()
    return profiles, markers


def _scale(
    relative: np.ndarray[Any, np.dtype[np.float64]],
    profiles: np.ndarray[Any, np.dtype[np.float32]],
    mean_nnz: int,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return library sizes proportional to `relative` for which the mean number of genes seen is `mean_nnz`."""
    few = profiles[:: max(1, len(profiles) // 12)]
    curve = np.array([expected_genes(few, size) for size in _GRID])
    low, high = 1.0, 1e6
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        seen = np.interp(np.log(middle * relative), np.log(_GRID), curve).mean()
        low, high = (middle, high) if seen < mean_nnz else (low, middle)
    # Bounded below so that no cell is empty, above so that no cell costs a million draws.
    library: np.ndarray[Any, np.dtype[np.int64]] = np.clip(low * relative, 5, 1e6).astype(np.int64)
    return library
