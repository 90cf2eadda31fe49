"""The rules that cells and genes are judged by: one spelling for the command line, config files and qc.json."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.documents import sha256_hex
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CELL_RULES", "QcRules", "differing", "listed_texts", "said_rules"]

CELL_RULES = (
    "leave_out",
    "leave_out_column",
    "control_cells",
    "min_genes",
    "max_genes",
    "min_counts",
    "max_counts",
    "max_mito_pct",
    "mad_counts",
    "mad_genes",
    "mad_mito",
)
"""In the order in which a cell that breaks several is counted as dropped; bit k of its flags is the k-th."""

_ALIASES = {
    "min_genes_per_cell": "min_genes",
    "max_genes_per_cell": "max_genes",
    "min_counts_per_cell": "min_counts",
    "max_counts_per_cell": "max_counts",
    "max_mito_percent": "max_mito_pct",
    "max_mt_pct": "max_mito_pct",
    "max_pct_mt": "max_mito_pct",
    "max_pct_mito": "max_mito_pct",
    "min_cells_per_gene": "min_cells",
}
"""Names that other programs' configurations have for the same."""

_WHOLE = ("min_genes", "max_genes", "min_cells")
_NUMBERS = ("min_counts", "max_counts", "max_mito_pct", "mad", "mad_mito", "min_cells_pct")
_PERCENT = ("max_mito_pct", "min_cells_pct")
_LISTS = ("mito_genes", "control_values", "leave_out_column", "leave_out")


@dataclass(frozen=True, slots=True)
class QcRules:
    """What a cell and a gene must be to stay; None asks nothing. A cell that is at a bound stays."""

    min_genes: int | None = None
    """Genes seen in the cell."""
    max_genes: int | None = None
    min_counts: float | None = None
    """Total of the cell's counts."""
    max_counts: float | None = None
    max_mito_pct: float | None = None
    """Mitochondrial counts, in per cent of the total."""
    mad: float | None = None
    """Median absolute deviations from the median that log1p counts, log1p genes and the mitochondrial share may be."""
    mad_mito: float | None = None
    """The same of the mitochondrial share alone; `mad` unless said."""
    mito_genes: tuple[str, ...] | None = None
    """Ids or symbols; None: symbols that begin with ``MT-`` or ``mt-``."""
    subset_to_control_cells: bool = False
    control_column: str | None = None
    control_values: tuple[str, ...] | None = None
    leave_out_column: tuple[str, ...] = ()
    """``COLUMN`` of booleans or ``COLUMN=VALUE``: cells that have it go."""
    leave_out: tuple[str, ...] = ()
    """Names of cells, as obs_names of the chunks has them, that go."""
    min_cells: int | None = None
    """Cells that stay in which a gene is seen."""
    min_cells_pct: float | None = None
    """The same in per cent of the cells that stay."""

    @classmethod
    def of(cls, said: Mapping[str, Any], *, where: str = "") -> QcRules:
        """Read rules by their names, numbers as texts too, lists as ``A,B`` or ``@file``; None is not said.

        Parameters
        ----------
        said
            Name, with dashes or underscores -> value.
        where
            Names the place in errors: a config file, or nothing for options.

        Raises
        ------
        ConfigError
            Kind ``bad-qc``: no such rule, or a value that it cannot have.
        """
        return cls().updated(said, where=where)

    def updated(self, said: Mapping[str, Any], *, where: str = "") -> QcRules:
        """Return these rules, but for those that are said now; arguments and errors are those of `of`."""
        prefix = f"{where}: " if where else ""
        values = {
            name: _value(name, value, prefix)
            for key, value in said.items()
            if (name := _name(key, prefix)) and value is not None and value not in ((), [])
        }
        rules = replace(self, **values)
        _refuse_nonsense(rules, prefix)
        return rules

    @property
    def wants_controls(self) -> bool:
        """Whether control cells alone stay."""
        return self.subset_to_control_cells or self.control_column is not None

    @property
    def by_annotation(self) -> bool:
        """Whether a column of the index drops cells."""
        return self.wants_controls or bool(self.leave_out_column)

    @property
    def by_totals(self) -> bool:
        """Whether a bound on genes or counts of a cell drops it."""
        return any(bound is not None for bound in (self.min_genes, self.max_genes, self.min_counts, self.max_counts))

    @property
    def filters_genes(self) -> bool:
        """Whether genes go."""
        return self.min_cells is not None or self.min_cells_pct is not None

    @property
    def needs_mito(self) -> bool:
        """Whether cells are dropped by their mitochondrial share, so that such genes must be known."""
        return self.max_mito_pct is not None or self.mad_mito is not None or self.mito_genes is not None

    @property
    def most_mads(self) -> Mapping[str, float]:
        """Adaptive rule -> deviations allowed, of the rules that are asked for."""
        mito = self.mad if self.mad_mito is None else self.mad_mito
        found = {"mad_counts": self.mad, "mad_genes": self.mad, "mad_mito": mito}
        return {name: most for name, most in found.items() if most is not None}

    def document(self) -> dict[str, Any]:
        """Return the rules asked for as JSON has them; of a list of cells its length and digest."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        document = {
            name: _plain(value) for name, value in found.items() if value not in (None, ()) and value is not False
        }
        if self.leave_out:
            digest = sha256_hex("\n".join(sorted(self.leave_out)).encode())
            document["leave_out"] = {"names": len(self.leave_out), "sha256": digest}
        return document


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _name(key: str, prefix: str) -> str:
    name = key.replace("-", "_")
    name = _ALIASES.get(name, name)
    names = [field.name for field in fields(QcRules)]
    if name not in names:
        close = get_close_matches(name, [*names, *_ALIASES], n=1)
        meant = f"; did you mean '{close[0]}'?" if close else f"; there is {', '.join(names)}"
        raise ConfigError(f"{prefix}no quality rule '{key}'{meant}", kind="bad-qc")
    return name


def _value(name: str, value: Any, prefix: str) -> Any:
    if name in _LISTS:
        texts = value if isinstance(value, list | tuple) else [value]
        many = tuple(text for item in texts for text in listed_texts(str(item), f"{prefix}{name}"))
        return tuple(dict.fromkeys(many))
    if name == "control_column":
        return str(value)
    if name == "subset_to_control_cells":
        return _truth(name, value, prefix)
    number = _number(name, value, prefix)
    if name in _WHOLE and not number.is_integer():
        raise ConfigError(f"{prefix}{name} {value}: a whole number is wanted", kind="bad-qc")
    if number < 0 or (name in _PERCENT and number > 100):
        span = "per cent go from 0 to 100" if name in _PERCENT else "a number from 0 on"
        raise ConfigError(f"{prefix}{name} {value}: {span}", kind="bad-qc")
    return int(number) if name in _WHOLE else number


def _number(name: str, value: Any, prefix: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{prefix}{name} {value}: a number is wanted", kind="bad-qc")
    return number


def _truth(name: str, value: Any, prefix: str) -> bool:
    text = str(value).lower()
    if text not in ("true", "false", "1", "0", "yes", "no"):
        raise ConfigError(f"{prefix}{name} {value}: true or false is wanted", kind="bad-qc")
    return text in ("true", "1", "yes")


def listed_texts(text: str, where: str) -> tuple[str, ...]:
    """Read ``A,B``, or ``@file`` with one text a line and comments after ``#``.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds nothing (kind ``bad-list``).
    """
    if not text.startswith("@"):
        return tuple(item.strip() for item in text.split(",") if item.strip())
    try:
        lines = Path(text[1:]).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot read {text[1:]} ({error})", kind="bad-list") from error
    found = tuple(item for line in lines if (item := line.split("#", 1)[0].strip()))
    if not found:
        raise ConfigError(f"{where}: {text[1:]} holds nothing", kind="bad-list")
    return found


def _refuse_nonsense(rules: QcRules, prefix: str) -> None:
    for low, high in (("min_genes", "max_genes"), ("min_counts", "max_counts")):
        least, most = getattr(rules, low), getattr(rules, high)
        if least is not None and most is not None and least > most:
            raise ConfigError(f"{prefix}{low} {least:,} is above {high} {most:,}: no cell stays", kind="bad-qc")
    if rules.control_values is not None and rules.control_column is None:
        raise ConfigError(
            f"{prefix}control_values without control_column", kind="bad-qc", hint="say which obs column has them"
        )
    if rules.min_cells is not None and rules.min_cells_pct is not None:
        raise ConfigError(f"{prefix}min_cells and min_cells_pct are two words for one rule: give one", kind="bad-qc")


def said_rules(document: Mapping[str, Any]) -> str:
    """Return rules as a line has room for them: ``max_mito_pct 10, min_genes 200``."""
    return ", ".join(f"{name} {_said(value)}" for name, value in sorted(document.items())) or "none"


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say in which rules and data two records differ, in words; empty when they agree."""
    old, new = there.get("rules"), here["rules"]
    old = old if isinstance(old, dict) else {}
    found = [
        f"{name} {_said(old.get(name))} there, {_said(new.get(name))} here"
        for name in [*new, *(name for name in old if name not in new)]
        if old.get(name) != new.get(name)
    ]
    data = there.get("dataset")
    if not isinstance(data, dict) or data.get("digest") != here["dataset"]["digest"]:
        found.append("computed from other data")
    return found


def _said(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value[:3])) + (f" and {len(value) - 3} more" if len(value) > 3 else "")
    if isinstance(value, dict):
        return f"{value.get('names')} names"
    return f"{value:,.12g}" if isinstance(value, int | float) else str(value)
