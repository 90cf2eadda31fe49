"""What shapes the choice of genes, and is compared when a choice is found already made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FLAVOURS", "Flavour", "HvgParameters", "differing"]

Flavour = Literal["dispersion", "seurat", "cell_ranger", "seurat_v3"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

_NORMALISED = ("seurat", "cell_ranger")


@dataclass(frozen=True, slots=True)
class HvgParameters:
    """Every parameter, resolved; those that a flavour does not have are None."""

    flavour: Flavour
    n_hvgs: int
    min_cells_pct: float | None
    """dispersion: genes in fewer cells, in per cent, are left out."""
    target_sum: float | None
    """seurat, cell_ranger: what every cell's total becomes; None: the median total of the cells that have counts."""
    batch_key: str | None

    @classmethod
    def of(
        cls,
        flavour: Flavour = "dispersion",
        *,
        n_hvgs: int = 2000,
        min_cells_pct: float | None = None,
        target_sum: float | None = None,
        batch_key: str | None = None,
    ) -> HvgParameters:
        """Fill in what was left out, and refuse what makes no sense.

        Raises
        ------
        ConfigError
            Kind ``bad-hvg``: a number out of range, or one that the flavour does not have.
        """
        if n_hvgs < 1:
            raise ConfigError(f"--n-hvgs {n_hvgs}: at least one gene is chosen", kind="bad-hvg")
        if min_cells_pct is not None and flavour != "dispersion":
            raise _foreign("--min-cells-pct", flavour, "dispersion")
        if target_sum is not None and flavour not in _NORMALISED:
            raise _foreign("--target-sum", flavour, " and ".join(_NORMALISED))
        if target_sum is not None and not 0 < target_sum <= 1e12:
            raise ConfigError(f"--target-sum {target_sum:g}: a number above 0, 1e12 at most", kind="bad-hvg")
        if flavour == "dispersion" and min_cells_pct is None:
            min_cells_pct = 0.1
        if min_cells_pct is not None and not 0 <= min_cells_pct <= 100:
            raise ConfigError(f"--min-cells-pct {min_cells_pct:g}: per cent go from 0 to 100", kind="bad-hvg")
        return cls(flavour, n_hvgs, min_cells_pct, target_sum, batch_key)

    @property
    def normalised(self) -> bool:
        """Whether moments are of normalised values."""
        return self.flavour in _NORMALISED

    def document(self) -> dict[str, Any]:
        """Return the parameters as hvg_info.json has them: those of the flavour."""
        document: dict[str, Any] = {"n_hvgs": self.n_hvgs, "batch_key": self.batch_key}
        if self.flavour == "dispersion":
            document["min_cells_pct"] = self.min_cells_pct
        if self.normalised:
            document["target_sum"] = "median" if self.target_sum is None else self.target_sum
        return document


def _foreign(option: str, flavour: str, owner: str) -> ConfigError:
    return ConfigError(f"{option} means nothing to --flavour {flavour}; it belongs to {owner}", kind="bad-hvg")


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say in which of the flavour, the parameters and the data two records differ, in words; empty when they agree."""
    found = []
    if there.get("flavour") != here["flavour"]:
        found.append(f"flavour {there.get('flavour')} there, {here['flavour']} here")
    old, new = there.get("parameters"), here["parameters"]
    old = old if isinstance(old, dict) else {}
    for name in [*new, *(name for name in old if name not in new)]:
        if name in old and name in new and old[name] != new[name]:
            found.append(f"{name} {_said(old[name])} there, {_said(new[name])} here")
        elif there.get("flavour") == here["flavour"] and (name in old) != (name in new):
            found.append(f"{name} {_said(old.get(name))} there, {_said(new.get(name))} here")
    data = there.get("dataset")
    if not isinstance(data, dict) or data.get("digest") != here["dataset"]["digest"]:
        found.append("computed from other data")
    return found


def _said(value: Any) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
