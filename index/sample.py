"""Draw exactly so many cells from a stream: count first, then choose, then pass the chosen ones through.

Memory is bounded by the cells drawn and the groups they are drawn from. What is drawn depends on the order of the
stream, the number and the seed, not on how the stream is cut into batches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.draw import SampleDraw, choose_samples
from index.shares import equal_shares, proportional_shares
from index.stream import silent
from ingest.errors import ConfigError, EmptySelectionError, SourceChangedError
from ingest.grammar import unknown_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from index.stream import CellStream, Progress

__all__ = ["BAND_CELLS", "Sample", "Sampling", "draw_places", "split_strata"]

BAND_CELLS: Final = 2048
"""Cells of one row of Census tiles: they are read together or not at all."""
_BLOCK: Final = 2**20
_MOST_STRATA: Final = 10_000
MISSING: Final = "(missing)"
_SAMPLES: Final = ("SRX_accession", "dataset_id", "source")
"""Columns that say which sample a cell is of; the first that there is."""

_Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """What to draw.

    Raises
    ------
    ConfigError
        ``bad-sampling``: the settings exclude each other.
    EmptySelectionError
        No cells are wanted.
    """

    cells: int
    """Exactly so many, or all when there are fewer."""
    seed: int = 0
    by: Literal["cell", "band", "sample"] = "cell"
    """``band`` draws whole runs of 2048 neighbours, which are much cheaper to read than scattered cells; ``sample``
    whole samples: the cells of one SRX_accession, dataset_id or source."""
    stratify: str | None = None
    """Column whose values share the sample."""
    shares: Literal["equal", "proportional"] = "proportional"
    """How they share it."""
    last: Literal["cut", "whole"] = "cut"
    """Of the sample that passes the target; see `index.draw.SampleDraw`."""

    def __post_init__(self) -> None:
        if self.cells <= 0:
            raise EmptySelectionError(f"--cells {self.cells} draws nothing", hint="say how many cells are wanted")
        if self.by != "cell" and self.stratify is not None:
            raise ConfigError(
                f"--by {self.by} and --stratify exclude each other: a {self.by} is taken whole",
                kind="bad-sampling",
                hint="leave one of them out",
            )

    @classmethod
    def of(
        cls,
        cells: int,
        *,
        seed: int = 0,
        by: Literal["cell", "band", "sample"] = "cell",
        stratify: str | None = None,
        last: Literal["cut", "whole"] = "cut",
    ) -> Sampling:
        """Read the command line's spelling: `stratify` is ``COLUMN``, ``COLUMN:equal`` or ``COLUMN:proportional``."""
        return cls(cells, seed, by, *split_strata(stratify), last)


def split_strata(stratify: str | None) -> tuple[str | None, Literal["equal", "proportional"]]:
    """Return column and shares of ``COLUMN``, ``COLUMN:equal`` or ``COLUMN:proportional``."""
    column, _, shares = (stratify or "").rpartition(":")
    if column and shares == "equal":
        return column, "equal"
    return (column if column and shares == "proportional" else stratify), "proportional"


class Sample:
    """The stream of the cells drawn from another stream, in that one's order.

    Parameters
    ----------
    stream
        What to draw from; streamed once to count, then once for every use.
    sampling
        What to draw.

    Raises
    ------
    ConfigError
        ``unknown-column``, ``too-many-strata``, ``bad-strata``.
    """

    def __init__(self, stream: CellStream, sampling: Sampling, *, progress: Progress = silent) -> None:
        self._stream = stream
        self._sampling = sampling
        self._notes: list[str] = []
        self._sizes = self._count(progress)
        self._quotas = self._allot() if self._sizes else {}

    @property
    def schema(self) -> pa.Schema:
        """That of the stream drawn from."""
        return self._stream.schema

    @property
    def notes(self) -> Sequence[str]:
        """Those of the stream drawn from, and how the draw departed from what was asked for."""
        return [*self._stream.notes, *self._notes]

    @property
    def drawn(self) -> Mapping[str, int]:
        """Cells drawn from each stratum or band that gave any; ``""`` stands for all when there are no strata."""
        return {name: quota for name, quota in self._quotas.items() if quota}

    @property
    def total(self) -> int:
        """Cells there are before filter and sample."""
        return self._stream.total

    def nothing(self) -> EmptySelectionError:
        """Explain that there was nothing to draw from."""
        return self._stream.nothing()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells drawn.

        Raises
        ------
        SourceChangedError
            There are other cells now than when they were counted.
        """
        needed = None if columns is None else list(dict.fromkeys([*columns, *self._group_columns()]))
        chosen = {name: self._choose(name) for name, quota in self._quotas.items() if quota}
        seen: Counter[str] = Counter()
        for batch in self._stream.batches(needed):
            kept = [_kept(rows, seen[name], chosen[name]) for name, rows in self._groups(batch, seen) if name in chosen]
            rows = np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64)
            if len(rows):
                taken = batch if len(rows) == len(batch) else batch.take(pa.array(rows))
                yield taken if columns is None else taken.select(list(columns))
        if seen != self._sizes:
            raise SourceChangedError("the cells changed between counting and drawing them", hint="run it again")

    def _count(self, progress: Progress) -> Counter[str]:
        sizes: Counter[str] = Counter()
        for batch in self._stream.batches(self._group_columns()):
            for _ in self._groups(batch, sizes):
                pass
            if self._sampling.stratify is not None and len(sizes) > _MOST_STRATA:
                raise ConfigError(
                    f"column {self._sampling.stratify!r} has more than {_MOST_STRATA:,} values: too many strata",
                    kind="too-many-strata",
                    hint="stratify by a column with fewer values",
                )
            progress("counting", sizes.total())
        return sizes

    def _group_columns(self) -> list[str]:
        names = self._stream.schema.names
        if self._sampling.stratify is not None:
            if self._sampling.stratify not in names:
                raise unknown_column(self._sampling.stratify, names, "the index, to stratify by")
            return [self._sampling.stratify]
        if self._sampling.by == "sample":
            return [next(name for name in _SAMPLES if name in (*names, _SAMPLES[-1]))]
        return [name for name in ("source", "soma_joinid", "row") if name in names]

    def _groups(self, batch: pa.RecordBatch, seen: Counter[str]) -> Iterator[tuple[str, _Int64]]:
        """Yield each group in `batch` with its rows, ascending; count them in `seen` after each is used."""
        codes, names = self._codes(batch)
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(names)))
        for name, rows in zip(names, np.split(order, ends[:-1]), strict=True):
            if len(rows):
                yield name, rows
                seen[name] += len(rows)

    def _codes(self, batch: pa.RecordBatch) -> tuple[_Int64, list[str]]:
        if self._sampling.stratify is not None:
            return _strata(batch.column(self._sampling.stratify), self._sampling.stratify)
        if self._sampling.by == "band":
            return _bands(batch)
        if self._sampling.by == "sample":
            (name,) = self._group_columns()
            return _strata(batch.column(name), name)
        return np.zeros(len(batch), np.int64), [""]

    def _allot(self) -> dict[str, int]:
        total = self._sizes.total()
        cells = min(self._sampling.cells, total)
        if cells < self._sampling.cells:
            self._notes.append(f"all {total:,} cells are taken: fewer than the {self._sampling.cells:,} asked for")
        if self._sampling.stratify is not None:
            return self._allot_strata(cells)
        if self._sampling.by == "sample":
            return self._allot_samples()
        return self._allot_bands(cells) if self._sampling.by == "band" else {"": cells}

    def _allot_samples(self) -> dict[str, int]:
        asked = self._sampling
        return choose_samples(self._sizes, SampleDraw(asked.cells, asked.seed, asked.last))

    def _allot_strata(self, cells: int) -> dict[str, int]:
        equal = self._sampling.shares == "equal"
        quotas = (equal_shares if equal else proportional_shares)(self._sizes, cells)
        column = self._sampling.stratify
        short = [name for name, quota in quotas.items() if equal and quota < cells // len(quotas)]
        if short:
            self._notes.append(
                f"{len(short)} of {len(quotas)} values of {column} have fewer than {cells // len(quotas):,} cells "
                f"({_some(short)}): all of theirs are taken, the others give more"
            )
        none = [name for name, quota in quotas.items() if not quota]
        if none:
            self._notes.append(f"{len(none)} of {len(quotas)} values of {column} give no cell ({_some(none)})")
        return quotas

    def _allot_bands(self, cells: int) -> dict[str, int]:
        names = sorted(self._sizes)
        quotas: dict[str, int] = {}
        for place in self._random("bands").permutation(len(names)):
            if not cells:
                break
            quotas[names[place]] = min(self._sizes[names[place]], cells)
            cells -= quotas[names[place]]
        return quotas

    def _choose(self, name: str) -> _Int64 | None:
        """Return the chosen places within group `name`, ascending; None for all of them."""
        size, quota = self._sizes[name], self._quotas[name]
        if quota == size:
            return None
        if self._sampling.by == "band":
            return np.arange(quota)
        return _places(self._random(name), size, quota)

    def _random(self, name: str) -> np.random.Generator:
        return _random(self._sampling.seed, name)


def _random(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()))


def draw_places(seed: int, name: str, size: int, count: int) -> _Int64:
    """Draw `count` of ``range(size)`` uniformly without replacement, ascending: the ones of `seed` and `name`."""
    return _places(_random(seed, name), size, count)


def _kept(rows: _Int64, before: int, places: _Int64 | None) -> _Int64:
    """Return those of `rows`, which are places ``before``… of their group, that were chosen."""
    if places is None:
        return rows
    low, high = np.searchsorted(places, (before, before + len(rows)))
    kept: _Int64 = rows[places[low:high] - before]
    return kept


def _places(random: np.random.Generator, size: int, count: int) -> _Int64:
    """Draw `count` of ``range(size)`` uniformly without replacement, ascending.

    Block by block: numpy's own ``choice`` would hold all of ``range(size)``.
    """
    parts: list[_Int64] = []
    for start in range(0, size, _BLOCK):
        block = min(_BLOCK, size - start)
        take = int(random.hypergeometric(block, size - start - block, count)) if count else 0
        parts.append(start + np.sort(random.choice(block, take, replace=False, shuffle=False)))
        count -= take
    return np.concatenate(parts)


def _strata(column: pa.Array, name: str) -> tuple[_Int64, list[str]]:
    if pa.types.is_floating(column.type):
        raise ConfigError(
            f"column {name!r} holds fractional numbers, which make no strata",
            kind="bad-strata",
            hint="stratify by a column of categories",
        )
    coded = column if isinstance(column, pa.DictionaryArray) else column.cast(pa.string()).dictionary_encode()
    texts = [MISSING if text is None else text for text in coded.dictionary.cast(pa.string()).to_pylist()]
    codes = pc.fill_null(coded.indices.cast(pa.int64()), len(texts)).to_numpy()
    # Two codes may stand for one text (a null among the categories, categories that stand twice).
    names = list(dict.fromkeys([*texts, MISSING]))
    place = {text: code for code, text in enumerate(names)}
    recode = np.array([*(place[text] for text in texts), place[MISSING]], np.int64)
    return recode[codes], names


def _bands(batch: pa.RecordBatch) -> tuple[_Int64, list[str]]:
    """Group by source and by 2048 coordinates."""
    nowhere = np.full(len(batch), -1)
    names = batch.schema.names
    joinid, row = (batch.column(name).to_numpy() if name in names else nowhere for name in ("soma_joinid", "row"))
    bands = np.where(joinid >= 0, joinid, row) // BAND_CELLS
    codes, sources = _strata(batch.column("source"), "source") if "source" in names else (nowhere + 1, [""])
    pairs, inverse = np.unique(np.stack([codes, bands]), axis=1, return_inverse=True)
    return inverse.reshape(-1), [f"{sources[code]}\n{band:015d}" for code, band in pairs.T]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
