"""Labels with their ontology ids, in the form that Census has them, for the cells of a made-up Census."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ETHNICITIES", "ORGANISMS", "SEXES", "STUDIES", "Organism", "Study", "Term", "stage_of"]


class Term(NamedTuple):
    """One label of a controlled vocabulary."""

    label: str
    ontology_id: str


class Site(NamedTuple):
    """Where a sample was taken."""

    tissue: Term
    general: Term


@dataclass(frozen=True, slots=True)
class Organism:
    """What differs between organisms."""

    label: str
    ontology_id: str
    gene_prefix: str
    """Of Ensembl gene ids."""


@dataclass(frozen=True, slots=True)
class Study:
    """What one dataset is about."""

    title: str
    assays: tuple[Term, ...]
    suspension_type: str
    sites: tuple[Site, ...]
    diseases: tuple[Term, ...]
    """The first is normal."""
    cell_types: tuple[Term, ...]


NORMAL = Term("normal", "PATO:0000461")
UNKNOWN = Term("unknown", "unknown")

ORGANISMS = {
    "homo_sapiens": Organism("Homo sapiens", "NCBITaxon:9606", "ENSG"),
    "mus_musculus": Organism("Mus musculus", "NCBITaxon:10090", "ENSMUSG"),
}

SEXES = (Term("female", "PATO:0000383"), Term("male", "PATO:0000384"))

ETHNICITIES = (
    Term("European", "HANCESTRO:0005"),
    Term("African American", "HANCESTRO:0568"),
    Term("East Asian", "HANCESTRO:0009"),
    UNKNOWN,
)

_B = Term("B cell", "CL:0000236")
_CD4 = Term("CD4-positive, alpha-beta T cell", "CL:0000624")
_CD8 = Term("CD8-positive, alpha-beta T cell", "CL:0000625")
_ENDOTHELIAL = Term("endothelial cell", "CL:0000115")
_FIBROBLAST = Term("fibroblast", "CL:0000057")
_MACROPHAGE = Term("macrophage", "CL:0000235")
_MONOCYTE = Term("classical monocyte", "CL:0000860")
_NK = Term("natural killer cell", "CL:0000623")

_BLOOD = Term("blood", "UBERON:0000178")
_BRAIN = Term("brain", "UBERON:0000955")
_HEART = Term("heart", "UBERON:0000948")
_LUNG = Term("lung", "UBERON:0002048")

STUDIES = (
    Study(
        "Airways and alveoli in health and COVID-19",
        (Term("10x 3' v3", "EFO:0009922"), Term("10x 3' v2", "EFO:0009899")),
        "cell",
        (Site(_LUNG, _LUNG), Site(Term("lower lobe of left lung", "UBERON:0008953"), _LUNG)),
        (
            NORMAL,
            Term("COVID-19", "MONDO:0100096"),
            Term("COVID-19 || pneumonia", "MONDO:0100096 || MONDO:0005249"),
        ),
        (
            Term("pulmonary alveolar type 2 cell", "CL:0002063"),
            _MACROPHAGE,
            _FIBROBLAST,
            _ENDOTHELIAL,
            _CD8,
            Term("pulmonary alveolar type 1 cell", "CL:0002062"),
            _NK,
        ),
    ),
    Study(
        "Single nuclei of the failing human heart",
        (Term("10x 3' v3", "EFO:0009922"),),
        "nucleus",
        (
            Site(Term("heart left ventricle", "UBERON:0002084"), _HEART),
            Site(Term("interventricular septum", "UBERON:0002094"), _HEART),
        ),
        (NORMAL, Term("dilated cardiomyopathy", "MONDO:0005021")),
        (
            Term("cardiac muscle cell", "CL:0000746"),
            _FIBROBLAST,
            _ENDOTHELIAL,
            Term("pericyte", "CL:0000669"),
            _MACROPHAGE,
        ),
    ),
    Study(
        "Cortex in ageing and Alzheimer disease",
        (Term("10x multiome", "EFO:0030059"), Term("10x 3' v3", "EFO:0009922")),
        "nucleus",
        (
            Site(Term("dorsolateral prefrontal cortex", "UBERON:0009834"), _BRAIN),
            Site(Term("middle temporal gyrus", "UBERON:0002771"), _BRAIN),
        ),
        (NORMAL, Term("Alzheimer disease", "MONDO:0004975")),
        (
            Term("glutamatergic neuron", "CL:0000679"),
            Term("oligodendrocyte", "CL:0000128"),
            Term("astrocyte", "CL:0000127"),
            Term("GABAergic neuron", "CL:0000617"),
            Term("microglial cell", "CL:0000129"),
        ),
    ),
    Study(
        "Immune cells of blood across diseases: an integrated atlas",
        (Term("10x 5' v1", "EFO:0011025"), Term("10x 3' v2", "EFO:0009899"), Term("Smart-seq2", "EFO:0008931")),
        "cell",
        (Site(_BLOOD, _BLOOD), Site(Term("spleen", "UBERON:0002106"), Term("spleen", "UBERON:0002106"))),
        (NORMAL, Term("systemic lupus erythematosus", "MONDO:0007915")),
        (_CD4, _CD8, _B, _MONOCYTE, _NK, Term("plasma cell", "CL:0000786"), Term("mast cell", "CL:0000097")),
    ),
)


def stage_of(organism: str, age: int) -> Term:
    """Return the development stage of a donor: years for people, two stages for mice."""
    if organism == "homo_sapiens":
        return Term(f"{age}-year-old stage", f"HsapDv:{94 + age:07d}")
    return Term("mature stage", "MmusDv:0000110") if age % 2 else Term("9-week-old stage", "MmusDv:0000155")
