"""A file with the columns and labels that the operations on screens look for by themselves."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ingest.errors import LabelsError
from ingest.stream.files import writing
from ingest.stream.labels.annotations import annotated, is_text
from ingest.stream.labels.control import resolve_control_label
from ingest.stream.labels.edit import editing
from ingest.stream.labels.normalise import map_labels
from ingest.stream.labels.symbols import check_symbols, symbols_of
from ingest.stream.perturbation import SORTING, label_codes
from ingest.stream.reuse import now_text, origin_of, uns_key
from ingest.stream.storage import local_or_url, stem_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from ingest.stream.labels.annotations import Annotations
    from ingest.stream.labels.edit import Edit

__all__ = ["CONTROL", "PERTURBATION", "STANDARD", "standardize_dataset", "unique_names"]

PERTURBATION, CONTROL = "perturbation", "control"
"""What the column and the label are called."""
STANDARD = "standardization_metadata"
"""The entry of uns that says what was done."""

_log = logging.getLogger(__name__)

_KEPT_INDEX = "original_var_names"
_KEPT_COLUMN = "original_perturbation"


def standardize_dataset(
    dataset_path: Any,
    perturbation_column: str,
    control_label: str | None,
    gene_name_column: str | None,
    output_dir: str | os.PathLike[str],
    force: bool = False,
) -> Path:
    """Copy a file, with obs column ``perturbation``, label ``control``, and gene symbols as var_names.

    The file's bytes are copied (shared, where the file system can) and only what differs is written: X is not loaded.
    The column and the gene column stay as well; var_names that were others are kept in var column
    ``original_var_names``, another column ``perturbation`` in ``original_perturbation``. Of symbols that occur twice,
    the later ones end with ``-1``, ``-2``, …; genes without a symbol keep their name.
    ``uns["standardization_metadata"]`` holds ``original_path``, ``standardization_timestamp``, ``column_mappings`` and
    ``label_mappings`` (what was, to what is).

    Parameters
    ----------
    dataset_path
        Path or URL of the file, or its handle; a remote file is fetched.
    perturbation_column
        Of obs.
    control_label
        None: as `resolve_control_label` finds it.
    gene_name_column
        Of var; None: var_names, which then have to be symbols.
    output_dir
        The file becomes ``{output_dir}/.cache/standardized_{stem}.h5ad``. What is there already is taken if it was
        made of this file, as it still is, with the same settings; other things made of this file are replaced.
    force
        Do it again, even so.

    Returns
    -------
    Path
        Of the copy.

    Raises
    ------
    NoColumnError
        A KeyError: there is no such column; those that there are, are named.
    LabelsError
        A ValueError: no control label is found; the gene names are ids; a label ``control`` is there beside the
        control label (kind ``two-controls``).
    AlreadyExistsError
        The output was made of another file of the same name; `force` does not change that.
    SourceChangedError
        Something else changed the file meanwhile.
    TypeError, NoFileError, SourceError, ConfigError, CredentialsError
        `dataset_path` is nothing to read from, or the output cannot be written.
    """
    source = local_or_url(dataset_path)
    output = Path(output_dir) / ".cache" / f"standardized_{stem_of(source)}.h5ad"
    with annotated(source) as given:
        control = _control(given, perturbation_column, control_label)
        origin = origin_of(
            source,
            given.version,
            perturbation_column=perturbation_column,
            control_label=control,
            gene_name_column=gene_name_column,
        )
        if origin.is_there(output, STANDARD) and not force:
            _log.info("%s: made before, taken as it is", output)
            return output
        changes, version = _plan(given, perturbation_column, control, gene_name_column), given.version
    notes = _notes(perturbation_column, control, gene_name_column) | origin.notes()
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with editing(source, output, version=version) as edit:
        _write(edit, changes, notes)
    return output


def unique_names(names: Iterable[str]) -> list[str]:
    """Return `names` with those that occurred before ending with ``-1``, ``-2``, …, no two of them equal. Pure."""
    listed = list(names)
    taken, seen = set(listed), set[str]()
    made, next_number = [], dict[str, int]()
    for name in listed:
        unique = name
        while unique in seen or (unique != name and unique in taken):
            next_number[name] = next_number.get(name, 0) + 1
            unique = f"{name}-{next_number[name]}"
        seen.add(unique)
        made.append(unique)
    return made


@dataclass(frozen=True, slots=True, eq=False)
class _Changes:
    labels: pd.Series[Any]
    """Column ``perturbation``."""
    genes: pd.Index[Any] | None
    """var_names, where they change."""
    old_genes: pd.Series[Any] | None
    """Column ``original_var_names``, unless there is one."""
    moved: str | None
    """Name of the column that was ``perturbation`` and is not the one asked for."""
    unsorted: bool
    """What sorting noted of column ``perturbation`` holds no longer."""


def _control(given: Annotations, column: str, control_label: str | None) -> str:
    names = label_codes(given.obs.column(column))[1]
    control = resolve_control_label(names, control_label, verbose=False)
    if control != CONTROL and CONTROL in names:
        raise LabelsError(
            f"{given.label}: column {column!r} of obs has {control!r} and {CONTROL!r}; they would become one",
            kind="two-controls",
            hint="rename one of them, or make them one with normalise_perturbation_labels",
        )
    return control


def _plan(given: Annotations, column: str, control: str, gene_name_column: str | None) -> _Changes:
    old, genes = given.var.index(), _gene_names(given, gene_name_column)
    changed = not genes.equals(old)
    taken = given.obs.names
    return _Changes(
        labels=_labels(given.obs.column(column), control),
        genes=genes if changed else None,
        old_genes=pd.Series(old) if changed and _KEPT_INDEX not in given.var.names else None,
        moved=_free(_KEPT_COLUMN, taken) if PERTURBATION in taken and column != PERTURBATION else None,
        unsorted=given.note(SORTING).get("sorted_by") == PERTURBATION and (column, control) != (PERTURBATION, CONTROL),
    )


def _labels(values: pd.Series[Any], control: str) -> pd.Series[Any]:
    """Return labels as text, `control` as ``control``."""
    if not is_text(values.dtype) or not all(isinstance(label, str) for label in values.dropna().unique()):
        codes, names = label_codes(values)
        values = pd.Series(pd.Categorical.from_codes(codes, pd.Index(names)))
    return map_labels(values, lambda label: CONTROL if label == control else label, PERTURBATION)


def _gene_names(given: Annotations, column: str | None) -> pd.Index[Any]:
    symbols, where = symbols_of(given, column)
    check_symbols(symbols, f"{given.label}: {where}")
    old = given.var.index()
    names = [str(name) if has else str(before) for name, has, before in zip(symbols, symbols.notna(), old, strict=True)]
    return pd.Index(unique_names(names), dtype=object)


def _free(name: str, taken: Iterable[str]) -> str:
    return unique_names([*taken, name])[-1]


def _notes(column: str, control: str, gene_name_column: str | None) -> dict[str, Any]:
    genes = uns_key(gene_name_column or "var_names")
    return {
        "standardization_timestamp": now_text(),
        "column_mappings": {uns_key(column): PERTURBATION, genes: "var_names"},
        "label_mappings": {uns_key(control): CONTROL},
    }


def _write(edit: Edit, changes: _Changes, notes: dict[str, Any]) -> None:
    if changes.moved is not None:
        edit.rename_column("obs", PERTURBATION, changes.moved)
    edit.put_column("obs", PERTURBATION, changes.labels)
    if changes.old_genes is not None:
        edit.put_column("var", _KEPT_INDEX, changes.old_genes)
    if changes.genes is not None:
        edit.put_index("var", changes.genes)
    if changes.unsorted:
        edit.drop_uns(SORTING)
    edit.put_uns(STANDARD, notes)
