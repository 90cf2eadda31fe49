"""Which genes were measured at all, from ``metadata/presence.npz``: zero of one that was not is no count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import CorruptError
from ingest.layout import PRESENCE_KEY
from ingest.naming import source_labels
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ingest.genes import Genes
    from ingest.load.manifest import Manifest

__all__ = ["measured_genes"]


def measured_genes(
    files: Sequence[Path], manifests: Sequence[Manifest], genes: Genes, experiments: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each experiment which of `genes` were measured there, bool ``(n_experiments, n_genes)``.

    Raises
    ------
    CorruptError
        A file is damaged, or none names an experiment.
    """
    places = {name: at for at, name in enumerate(experiments)}
    found = np.zeros((len(places), len(genes)), bool)
    seen: set[str] = set()
    for file, manifest in zip(files, manifests, strict=True):
        onto = manifest.genes.map_onto(genes)
        columns = np.arange(len(genes)) if onto is None else onto
        sources = _sources_by_label(manifest)
        for label, row in _read(file, manifest):
            name = label if label in places else sources.get(label)
            if name in places:
                seen.add(name)
                found[places[name], columns[row & (columns >= 0)]] = True
    absent = next((name for name in experiments if name not in seen), None)
    if absent is not None:
        said = f"{manifests[0].url}/{PRESENCE_KEY} does not say what was measured in {absent}"
        raise CorruptError(said, kind="bad-summary", key=PRESENCE_KEY)
    return found


def _sources_by_label(manifest: Manifest) -> dict[str, str]:
    """Return the source behind each short name: files whose cells are of no named experiment stand under theirs."""
    labels = source_labels([Source.parse(text) for text in manifest.sources])
    return dict(zip(labels, manifest.sources, strict=True))


def _read(file: Path, manifest: Manifest) -> list[tuple[str, np.ndarray[Any, np.dtype[np.bool_]]]]:
    try:
        with file.open("rb") as opened, np.load(opened) as document:
            presence = document["presence"]
            if presence.dtype != np.bool_ or presence.shape[1:] != (len(manifest.genes),):
                raise ValueError(f"{presence.dtype} {presence.shape} of {len(manifest.genes):,} genes")  # noqa: TRY301
            names = document["datasets"]
            if names.dtype.kind != "U" or names.ndim != 1:
                raise ValueError(f"datasets of {names.dtype} {names.shape}")  # noqa: TRY301
            return list(zip(names.tolist(), presence, strict=True))
    except Exception as error:  # damage makes zipfile, zlib and numpy raise anything
        said = f"{manifest.url}/{PRESENCE_KEY} is damaged ({error})"
        raise CorruptError(said, kind="bad-summary", key=PRESENCE_KEY) from error
