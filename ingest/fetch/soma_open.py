"""Open one organism of a Census, at the version that the source names, within a worker's share of the machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ingest.cpu import require_avx2
from ingest.errors import ConfigError, SourceChangedError, SourceError, TransientError
from ingest.fetch.releases import release_directory, unknown_release
from ingest.fetch.soma_config import tiledb_config
from ingest.fetch.soma_errors import soma_errors
from ingest.grammar.suggest import did_you_mean

if TYPE_CHECKING:
    from types import TracebackType

    from ingest.fetch.base import FetchLimits
    from ingest.source import Source

__all__ = ["OpenExperiment", "content_version", "open_experiment"]

_PINNED_BY_CONTENT = "content-"


@dataclass(frozen=True, slots=True, eq=False)
class OpenExperiment:
    """Handles of one organism; a context manager. Not fork-safe, not pickled: opened where it is used."""

    source: Source
    """As asked for."""
    version: str
    """What pins it: see `open_experiment`."""
    census: Any
    """The root collection."""
    experiment: Any
    """``census_data/<organism>``."""

    @property
    def obs(self) -> Any:
        """The cells' table."""
        return self._member("obs")

    @property
    def var(self) -> Any:
        """The genes' table."""
        return self._member("ms", "RNA", "var")

    @property
    def raw(self) -> Any:
        """X raw: the counts, sparse ``(n_cells, n_genes)``."""
        return self._member("ms", "RNA", "X", "raw")

    @property
    def presence(self) -> Any | None:
        """The matrix ``(n_datasets, n_genes)`` of what was measured where, or None."""
        measurement = self._member("ms", "RNA")
        with soma_errors(self.source):
            return measurement.get("feature_dataset_presence_matrix")

    def _member(self, *names: str) -> Any:
        member = self.experiment
        with soma_errors(self.source):  # which are opened when they are asked for
            for name in names:
                if name not in member:
                    there = ", ".join(sorted(member.keys())) or "nothing"
                    message = f"{self.source}: no {'/'.join(names)}: where {name!r} should be is {there}"
                    raise SourceError(message, kind="no-raw-counts", source=str(self.source))
                member = member[name]
        return member

    def close(self) -> None:
        """Release all handles."""
        self.census.close()

    def __enter__(self) -> OpenExperiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_experiment(source: Source, limits: FetchLimits) -> OpenExperiment:
    """Open the organism of `source` for reading.

    The version of a ``census`` is its release date: releases never change, and the build date inside may be an
    earlier one (release 2024-07-01 was built on 2024-05-20). A ``soma`` copy is pinned by its build date, and one
    without a build date by its content (`content_version`).

    Raises
    ------
    ConfigError
        ``cpu-no-avx2``, ``unknown-version``, ``unknown-organism``, ``no-census``, or credentials.
    SourceChangedError
        A copy is no longer the version that `source` names.
    TransientError
        The network.
    """
    require_avx2()
    census = _open_census(source, limits)
    try:
        with soma_errors(source):
            opened = OpenExperiment(source, source.version, census, _organism(census, source))
            if source.kind != "census":
                opened = replace(opened, version=_version(opened))
    except BaseException:
        census.close()
        raise
    return opened


def _open_census(source: Source, limits: FetchLimits) -> Any:
    import cellxgene_census

    config = tiledb_config(source, limits)
    if source.kind == "census":
        return _open_release(source, config)
    # TileDB does not decode percent signs in file:// URLs.
    place = str(source.path or source.address)
    try:
        with soma_errors(source):
            census = cellxgene_census.open_soma(uri=place, tiledb_config=config)
    except TransientError:
        raise
    except Exception as error:
        if getattr(error, "kind", "") != "soma-missing":
            raise
        raise _no_census(source, "there is nothing to open") from error
    try:
        with soma_errors(source):
            whole = "census_data" in census and "census_info" in census
    except BaseException:
        census.close()
        raise
    if not whole:
        census.close()
        raise _no_census(source, "no census_data and census_info in it")
    return census


def _no_census(source: Source, why: str) -> ConfigError:
    hint = "the address names the collection that holds census_data and census_info"
    return ConfigError(f"{source}: no Census ({why})", kind="no-census", hint=hint, source=str(source))


def _open_release(source: Source, config: dict[str, str]) -> Any:
    import cellxgene_census
    import requests

    directory = release_directory()
    if source.version not in directory:
        raise unknown_release(source.version, directory, source=str(source))
    try:
        with soma_errors(source):
            return cellxgene_census.open_soma(census_version=source.version, tiledb_config=config)
    except requests.RequestException as error:  # it asks the directory itself
        message = f"{source}: the Census release directory does not answer ({type(error).__name__})"
        raise TransientError(message, kind="network", source=str(source)) from error


def _organism(census: Any, source: Source) -> Any:
    there = sorted(census["census_data"].keys())
    if source.organism in there:
        return census["census_data"][source.organism]
    raise ConfigError(
        f"{source}: no organism {source.organism!r}{did_you_mean(source.organism, there)}",
        kind="unknown-organism",
        hint=f"it has {', '.join(there)}",
        source=str(source),
    )


def _version(opened: OpenExperiment) -> str:
    wanted = opened.source.version
    build = "" if wanted.startswith(_PINNED_BY_CONTENT) else _build_date(opened.census)
    found = build or content_version(opened)
    if wanted and found != wanted:
        raise SourceChangedError(
            f"{opened.source}: is build {found} now, not {wanted}",
            hint="make the index again: joinids are stable only within one build",
            source=str(opened.source),
        )
    return found


def _build_date(census: Any) -> str:
    info = census["census_info"]
    if "summary" not in info:
        return ""
    table = info["summary"].read(column_names=["label", "value"]).concat()
    facts = dict(zip(table["label"].to_pylist(), table["value"].to_pylist(), strict=True))
    return str(facts.get("census_build_date") or "")


def content_version(opened: OpenExperiment) -> str:
    """Return what pins a copy without a build date: a digest over cells, genes (ids in order) and stored entries.

    Cheap, and blind to counts changed in place: whoever edits a copy gives it a build date.
    """
    table = opened.var.read(column_names=["soma_joinid", "feature_id"]).concat().sort_by("soma_joinid")
    facts = [str(opened.obs.count), str(opened.raw.nnz), *table["feature_id"].to_pylist()]
    return _PINNED_BY_CONTENT + hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
