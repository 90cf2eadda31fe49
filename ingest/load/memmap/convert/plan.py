"""What is converted, into which arrays, and in which parts. Pure.

::

    sources, in order ──► sizes and types of the arrays ──► parts: rows of one source, and their place in the archive

What the archive will hold is the plan's identity: the same sources at the same versions, the same types. How it is cut
into parts is not: whoever goes on goes by the cuts that are written down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.documents import canonical, seal, sha256_hex, unseal
from ingest.errors import ConfigError, CorruptError
from ingest.load.memmap.archive import ArchiveSpec
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.dtypes import check_data_dtype
from ingest.load.memmap.names import FileNames

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PART_ENTRIES", "ConversionPlan", "CutSource", "Part", "SourceFacts", "even_rows", "join_cuts", "make_plan"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

PART_ENTRIES = 1 << 23
"""Of a part, about: what a dead worker costs, and what is brought to the disk at a time."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """One source at one version."""

    kind: Literal["chunks", "h5ad"]
    address: str
    """Folder or URL of a dataset that `run` wrote; URL of a file."""
    version: str
    """Of the chunks, the dataset's identity; of a file, what pins it."""
    label: str
    """What feature indices call it."""
    n_rows: int
    n_columns: int
    n_entries: int


@dataclass(frozen=True, slots=True, eq=False)
class CutSource:
    """A source and where it may be cut."""

    facts: SourceFacts
    rows: Int64
    """int64 ``(n_parts + 1,)``: the first row of each part, ascending from 0, and the number of rows."""
    entries: Int64
    """int64 ``(n_parts + 1,)``: stored entries before each of them."""

    def __post_init__(self) -> None:
        ends = (self.rows[0], self.entries[0], self.rows[-1], self.entries[-1])
        rising = bool((np.diff(self.rows) > 0).all() and (np.diff(self.entries) >= 0).all())
        if len(self.rows) != len(self.entries) or ends != (0, 0, self.facts.n_rows, self.facts.n_entries) or not rising:
            raise ValueError(f"{self.facts.label} is not cut into rows that follow each other")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that one worker brings into the archive at a time."""

    number: int
    source: int
    place: Place
    n_entries: int


@dataclass(frozen=True, eq=False)  # no slots: what follows from it is computed once
class ConversionPlan:
    """A conversion; see `make_plan`."""

    sources: tuple[CutSource, ...]
    data_dtype: str
    use_x: bool = False
    """X of h5ad files, not raw.X."""
    neighbor_key: str | None = None
    tolerance: float = 1e-8
    """How far a stored value may be from the source's."""

    @cached_property
    def spec(self) -> ArchiveSpec:
        """Sizes and types of the arrays."""
        facts = [source.facts for source in self.sources]
        return ArchiveSpec.smallest(
            sum(one.n_rows for one in facts),
            sum(one.n_entries for one in facts),
            max(one.n_columns for one in facts),
            self.data_dtype,
        )

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts, in the order of the archive."""
        found: list[Part] = []
        row_at = entry_at = 0
        for number, source in enumerate(self.sources):
            rows, entries = source.rows.tolist(), source.entries.tolist()
            for at, (first, before) in enumerate(zip(rows[:-1], entries[:-1], strict=True)):
                place = Place(first, rows[at + 1] - first, row_at + first, entry_at + before)
                found.append(Part(len(found), number, place, entries[at + 1] - before))
            row_at, entry_at = row_at + source.facts.n_rows, entry_at + source.facts.n_entries
        return tuple(found)

    def bytes_of(self, part: Part) -> int:
        """Return the bytes of one part in the archive."""
        widths = {name: np.dtype(dtype).itemsize for name, (dtype, _) in self.spec.arrays.items()}
        pointers = part.place.n_rows * widths[FileNames.ROWPTR]
        return part.n_entries * (widths[FileNames.DATA] + widths[FileNames.COLPTR]) + pointers

    @property
    def row_offsets(self) -> tuple[int, ...]:
        """Row of the archive that each source begins at."""
        return tuple(accumulate((source.facts.n_rows for source in self.sources), initial=0))[:-1]

    @cached_property
    def digest(self) -> str:
        """Names what the archive will hold, 64 hex digits; not what sources are called in it."""
        identity = self._document()
        for source in identity["sources"]:
            del source["label"]
        return sha256_hex(canonical(identity))

    def _document(self) -> dict[str, Any]:
        return {
            "sources": [asdict(source.facts) for source in self.sources],
            "use_x": self.use_x,
            "neighbor_key": self.neighbor_key,
            "tolerance": self.tolerance,
            "arrays": asdict(self.spec),
        }

    def sealed(self) -> bytes:
        """Return the plan as a document with a digest of its own bytes."""
        parts = [{"rows": one.rows.tolist(), "entries": one.entries.tolist()} for one in self.sources]
        return seal({"kind": "scdl-conversion", **self._document(), "parts": parts})

    @classmethod
    def unseal(cls, data: bytes, *, where: str) -> ConversionPlan:
        """Read a plan back.

        Raises
        ------
        CorruptError
            The bytes are damaged, or no such plan (kind ``plan-damaged``).
        """
        try:
            document = unseal(data, key=where)
            cuts = [[np.array(part[name], np.int64) for name in ("rows", "entries")] for part in document["parts"]]
            sources = tuple(
                CutSource(SourceFacts(**facts), rows, entries)
                for facts, (rows, entries) in zip(document["sources"], cuts, strict=True)
            )
            settings = {name: document[name] for name in ("use_x", "neighbor_key", "tolerance")}
            plan = cls(sources, document["arrays"]["data"], **settings)
            agrees = asdict(plan.spec) == document["arrays"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _damaged(where, repr(error)) from error
        except CorruptError as error:
            raise _damaged(where, str(error)) from error
        if not agrees:
            raise _damaged(where, "its arrays are not those of its sources")
        return plan

    def differences(self, there: ConversionPlan) -> str:
        """Return in which way another plan, which is there already, differs from this one; empty where it does not."""
        pairs: list[tuple[str, object, object]] = [
            ("data type", there.spec.data, self.spec.data),
            ("sources", len(there.sources), len(self.sources)),
            ("matrix", _matrix(there), _matrix(self)),
            ("tolerance", there.tolerance, self.tolerance),
            ("neighbors", there.neighbor_key or "none", self.neighbor_key or "none"),
            ("cells", f"{there.spec.n_rows:,}", f"{self.spec.n_rows:,}"),
            ("entries", f"{there.spec.n_entries:,}", f"{self.spec.n_entries:,}"),
        ]
        said = [f"{name} {one} there, {other} here" for name, one, other in pairs if one != other]
        for one, other in zip(there.sources, self.sources, strict=False):
            if one.facts.address != other.facts.address:
                said.append(f"{one.facts.address} there, {other.facts.address} here")
                break
            if one.facts.version != other.facts.version:
                said.append(f"{one.facts.address} has changed since")
                break
        return "; ".join(said)


def _matrix(plan: ConversionPlan) -> str:
    return "X" if plan.use_x else "raw.X"


def _damaged(where: str, what: str) -> CorruptError:
    return CorruptError(f"{where} is damaged ({what})", kind="plan-damaged", hint="remove it, and begin again")


def even_rows(n_rows: int, n_entries: int, part_entries: int = PART_ENTRIES) -> Int64:
    """Return where a source of which nothing else is known is cut: int64 ``(n_parts + 1,)``, evenly many rows each."""
    if not n_rows:
        return np.zeros(1, np.int64)
    n_parts = max(1, min(n_rows, -(-n_entries // part_entries)))
    return np.arange(n_parts + 1, dtype=np.int64) * n_rows // n_parts


def join_cuts(rows: Int64, entries: Int64, part_entries: int = PART_ENTRIES) -> tuple[Int64, Int64]:
    """Join pieces that may not be cut, chunks, into parts of about so many entries; return rows and entries of these.

    Parameters
    ----------
    rows, entries
        int64 ``(n_pieces + 1,)``, as `CutSource` has them; pieces without rows vanish.
    """
    if not rows[-1]:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    kept = [0]
    for at in range(1, len(rows) - 1):
        is_full = entries[at] - entries[kept[-1]] >= part_entries
        if is_full and rows[at] > rows[kept[-1]] and rows[at] < rows[-1]:
            kept.append(at)
    cuts = np.array([*kept, len(rows) - 1])
    return rows[cuts].astype(np.int64), entries[cuts].astype(np.int64)


def make_plan(
    sources: Sequence[CutSource],
    *,
    data_dtype: str | None = None,
    use_x: bool = False,
    neighbor_key: str | None = None,
    tolerance: float = 1e-8,
) -> ConversionPlan:
    """Plan an archive of all rows of `sources`, in their order; sources without rows are left out.

    Values are stored as `data_dtype`, float32 unless said; columns and row pointers as the smallest unsigned types
    that hold those of all sources.

    Raises
    ------
    ConfigError
        There is no such type (kind ``bad-dtype``), or nothing to store (kind ``nothing-stored``).
    """
    dtype = data_dtype or "float32"
    try:
        check_data_dtype(dtype)
    except ValueError as error:
        raise ConfigError(str(error), kind="bad-dtype") from error
    kept = tuple(one for one in sources if one.facts.n_rows)
    plan = ConversionPlan(kept, dtype, use_x, neighbor_key, tolerance)
    try:
        plan.spec  # noqa: B018 # says what it cannot be
    except ValueError as error:
        said = "there are no cells" if not plan.sources else str(error)
        raise ConfigError(said, kind="nothing-stored") from error
    return plan
