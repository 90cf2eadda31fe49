"""What a made-up scBaseCount holds: samples, cells and genes, with the irregularities of the real one. Pure, seeded.

Samples differ in size by orders of magnitude and in how their matrix lies; barcodes come from one list and repeat
from file to file; one sample is a CELLxGENE collection processed again; a cell type may be the empty string; and one
sample's rows of obs_metadata do not stand in the order of its file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.scbasecount import PUBLIC_ROOT
from ingest.testing.census_counts import Sampler
from ingest.testing.census_genes import draw_genes

if TYPE_CHECKING:
    from ingest.testing.census_counts import BandCounts

__all__ = ["Folder", "SampleModel", "ScBaseCountSpec", "draw_folder", "is_older"]

FORMAT_VERSION = 2
"""Raise it whenever the same spec gives other bytes."""

_BARCODES = 4_000
"""At least; more where samples are larger."""
_TISSUES = ("lung", "blood", "brain", "heart", "")
_CELL_TYPES = ("T cell", "B cell", "monocyte", "fibroblast", "")
_PROFILES = 6
_LAYOUTS: tuple[Literal["csc", "csr", "dense"], ...] = ("csc", "csr", "dense")


@dataclass(frozen=True, slots=True)
class ScBaseCountSpec:
    """What to build; the same spec gives the same files."""

    n_samples: int = 10
    """Samples of the first organism; others have half as many."""
    mean_cells: int = 250
    """Of a sample; the largest has four times as many, the smallest three cells."""
    n_genes: int = 1_500
    """Human has 36,601."""
    mean_molecules: int = 600
    """Of a cell."""
    releases: tuple[str, ...] = ("2025-02-25", "2026-01-12")
    features: tuple[str, ...] = ("Gene", "GeneFull_Ex50pAS")
    organisms: tuple[str, ...] = ("Homo_sapiens", "Mus_musculus")
    czi_collection: str = "00000000-0000-4000-a000-000000000001"
    """Of the sample that is a CELLxGENE collection processed again: by default one that a made-up Census holds."""
    gene_ids: tuple[str, ...] = ()
    """Human genes that are among the others: those of a Census, say."""
    file_root: str = PUBLIC_ROOT
    """What ``file_path`` begins with, wherever the files are put."""
    row_group: int = 500
    """Cells in a row group of obs_metadata."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < 6 or self.mean_cells < 10:
            raise ValueError("a scBaseCount has at least 6 samples, of 10 cells on average")
        if len(self.gene_ids) > self.n_genes:
            raise ValueError(f"{len(self.gene_ids)} gene ids of {self.n_genes} genes")

    @property
    def digest(self) -> str:
        """Of the spec and the version of this model: hex, 16 digits."""
        text = json.dumps([FORMAT_VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class SampleModel:
    """One sample; arrays are in the order of its file."""

    accession: str
    layout: Literal["csc", "csr", "dense"]
    facts: dict[str, Any]
    """Its row of sample_metadata, but for what depends on the file's place."""
    barcodes: np.ndarray[Any, np.dtype[np.str_]]
    """``(n_cells,)``, ascending and unique within the sample."""
    cell_type: np.ndarray[Any, np.dtype[np.str_]]
    """``(n_cells,)``."""
    counts: BandCounts
    metadata_order: np.ndarray[Any, np.dtype[np.int64]]
    """Rows of the file in the order in which obs_metadata has them."""


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """All samples of one release, feature and organism."""

    gene_ids: np.ndarray[Any, np.dtype[np.str_]]
    gene_names: np.ndarray[Any, np.dtype[np.str_]]
    samples: tuple[SampleModel, ...]


def draw_folder(spec: ScBaseCountSpec, release: str, feature: str, organism: str) -> Folder:
    """Draw the samples of one folder; an organism has the same cells in all features and releases."""
    rng = np.random.default_rng([spec.seed, FORMAT_VERSION, spec.organisms.index(organism)])
    ids, names, mean = _genes(spec, organism, rng)
    profiles = mean * rng.lognormal(0, 1.0, (_PROFILES, len(mean)))
    profiles = (profiles / profiles.sum(axis=1, keepdims=True)).astype(np.float32)
    barcodes = np.unique(["".join(word) for word in rng.choice(list("ACGT"), (_n_barcodes(spec), 16))])
    n_samples = spec.n_samples if organism == spec.organisms[0] else max(6, spec.n_samples // 2)
    sampler = Sampler(profiles, spec.seed * 101 + spec.features.index(feature))
    ordered = is_older(release)
    samples = [
        _sample(spec, organism, number, size, barcodes, sampler, np.random.default_rng([*seed, number]), ordered)
        for seed in [[spec.seed, FORMAT_VERSION, 1 + spec.organisms.index(organism)]]
        for number, size in enumerate(_sizes(spec, n_samples, rng))
    ]
    return Folder(ids, names, tuple(sorted(samples, key=lambda sample: sample.accession)))


def is_older(release: str) -> bool:
    """Say whether a release has the tables of 2025: fewer columns, and cells in the order of the files."""
    return release < "2026"


def _genes(spec: ScBaseCountSpec, organism: str, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Return ids, symbols and mean expression, in the order of the ids as a genome annotation has them."""
    human = organism == "Homo_sapiens"
    genes = draw_genes("homo_sapiens" if human else "mus_musculus", spec.n_genes, rng)
    ids = genes.ids.copy()
    if human and spec.gene_ids:
        ids[: len(spec.gene_ids)] = spec.gene_ids
        fresh = (f"ENSG{number:011d}" for number in range(900_000, 1_000_000))
        given = set(spec.gene_ids)
        ids = np.array([*spec.gene_ids, *(next(fresh) if gene in given else gene for gene in ids[len(given) :])])
    order = np.argsort(ids)
    return ids[order], genes.names[order], genes.mean[order]


def _sizes(spec: ScBaseCountSpec, n_samples: int, rng: np.random.Generator) -> list[int]:
    sizes = np.maximum(3, (spec.mean_cells * rng.lognormal(-0.3, 0.8, n_samples)).astype(int))
    sizes[0], sizes[1] = 3, 4 * spec.mean_cells
    return [int(size) for size in np.minimum(sizes, _n_barcodes(spec) // 2)]


def _n_barcodes(spec: ScBaseCountSpec) -> int:
    return max(_BARCODES, 10 * spec.mean_cells)


def _accession(organism: str, number: int) -> str:
    prefix = {2: "ERX", 3: "NRX"}.get(number, "SRX")
    return f"{prefix}{1_000_000 + 7_919 * number + 131 * len(organism)}"


def _sample(
    spec: ScBaseCountSpec,
    organism: str,
    number: int,
    n_cells: int,
    barcodes: np.ndarray[Any, np.dtype[np.str_]],
    sampler: Sampler,
    rng: np.random.Generator,
    ordered: bool,
) -> SampleModel:
    library = np.maximum(1, rng.lognormal(np.log(spec.mean_molecules), 0.4, n_cells)).astype(np.int64)
    # Half of the barcodes are the same ones in every sample.
    common = barcodes[: n_cells // 2]
    own = rng.choice(barcodes[n_cells // 2 :], n_cells - n_cells // 2, replace=False)
    is_czi = number == 3
    return SampleModel(
        accession=_accession(organism, number),
        layout=_LAYOUTS[number % 3] if number < 6 else "csc",
        facts={
            "entrez_id": 30_000_000 + number,
            "obs_count": n_cells,
            "lib_prep": "10x_Genomics",
            "tech_10x": ("3_prime_gex", "5_prime_gex")[number % 2],
            "cell_prep": ("single_cell", "single_nucleus")[number % 3 == 2],
            "organism": organism.replace("_", " "),
            "tissue": _TISSUES[number % len(_TISSUES)],
            "tissue_ontology_term_id": f"UBERON:{2048 + number % len(_TISSUES):07d}",
            "disease": ("normal", "COVID-19", None)[number % 3],
            "disease_ontology_term_id": ("PATO:0000461", "MONDO:0100096", None)[number % 3],
            "perturbation": None if number % 4 else "none",
            "cell_line": None,
            "antibody_derived_tag": "no",
            "czi_collection_id": spec.czi_collection if is_czi else None,
            "czi_collection_name": "A collection processed again" if is_czi else None,
        },
        barcodes=np.sort(np.concatenate([common, own])),
        cell_type=rng.choice(_CELL_TYPES, n_cells),
        counts=sampler.draw(
            rng.integers(0, _PROFILES, n_cells), library, np.arange(n_cells, dtype=np.int64) + (number << 32)
        ),
        metadata_order=np.arange(n_cells) if ordered or number != 4 else rng.permutation(n_cells),
    )
