"""Deep checks of one chunk: decoded by a reader that shares no code with the writer, held against index and receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.cells import COORDINATES
from ingest.chunk_rows import committed_rows
from ingest.digest import content_digest, levels_of, sums_digest
from ingest.encode.decode import decode_chunk
from ingest.errors import IngestError
from ingest.findings import Finding
from ingest.naming import cell_names
from ingest.normalize import totals_of
from ingest.promise import broken_promises
from ingest.validate import check_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.block import Block, Counts
    from ingest.chunk_rows import ChunkRows
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.unit_rows import UnitRows

__all__ = ["DeepCheck", "first_difference", "same_column"]

Array = np.ndarray[Any, Any]

_ROWS_AT_ONCE = 1024
_ROUNDED = 1e-5
"""Of a total whose parts were logged and rounded to float32 each."""


class DeepCheck:
    """What decoding proves or refutes; one instance serves all chunks and threads."""

    def __init__(self, opened: OpenPlan) -> None:
        self._opened = opened
        self._only_soma = sum(survey.layout == "soma" for survey in opened.surveys) == 1
        self._whole = np.array(
            [
                survey.layout == "soma" and all(gene in opened.genes for gene in survey.genes.ids)
                for survey in opened.surveys
            ],
            bool,
        )

    def findings(self, entry: ChunkReceipt, data: bytes, rows: UnitRows) -> list[Finding]:
        """Return every rule that the chunk breaks.

        Parameters
        ----------
        entry
            What the receipt says; `data` has its sha256, so that only files which were written so are parsed.
        rows
            At least the chunk's own rows of the plan.
        """
        try:
            block = decode_chunk(data, key=entry.key)
            check_counts(block.counts, source=entry.key, allow_noninteger=self._opened.plan.identity.fractional)
        except IngestError as error:
            return [Finding(error.kind, error.message, entry.chunk, entry.key)]
        mine = committed_rows(self._opened, rows, entry)
        found = [*self._annotations(entry, block, mine), *self._counts(entry, block.counts, mine)]
        if content_digest(block) != entry.content:
            found.append(_finding(entry, "content", "holds other content than its receipt records"))
        return found

    def _annotations(self, entry: ChunkReceipt, block: Block, rows: ChunkRows) -> Iterator[Finding]:
        if block.genes != self._opened.genes:
            yield _finding(entry, "genes", "has other genes in var than the dataset")
        if block.counts.n_cells != len(rows):
            yield _finding(entry, "n-cells", f"has {block.counts.n_cells:,} cells, {len(rows):,} are planned")
            return
        wanted = rows.obs
        if block.obs.column_names != wanted.column_names:
            yield _finding(entry, "obs", f"has obs columns {', '.join(block.obs.column_names)}, not the index's")
            return
        for name in wanted.column_names:
            n_wrong, at = _differing(wanted[name], block.obs[name])
            if n_wrong:
                kind = "row-ids" if name in COORDINATES else "obs"
                said = (
                    f"differs from the index in obs[{name!r}] of {n_wrong:,} cells, first in cell {rows.places[at]:,}"
                )
                yield _finding(entry, kind, said)
        yield from self._names(entry, block.obs_names, rows)

    def _names(self, entry: ChunkReceipt, names: pa.StringArray, rows: ChunkRows) -> Iterator[Finding]:
        codes, coordinates = rows.codes, rows.coordinates
        right = np.zeros(len(names), bool)
        for number in np.unique(codes):
            mine = codes == number
            right[mine] = self._named_well(int(number), names.filter(pa.array(mine)), coordinates[mine])
        if not right.all():
            at = int(np.flatnonzero(~right)[0])
            said = f"names cell {rows.places[at]:,} {names[at].as_py()!r}, which is not the name of that cell"
            yield _finding(entry, "obs-names", said)
        elif len(pc.unique(names)) < len(names):
            yield _finding(entry, "obs-names", "has the same name for several cells")

    def _named_well(self, number: int, names: pa.StringArray, coordinates: Array) -> Array:
        survey, label = self._opened.surveys[number], self._opened.labels[number]
        if survey.layout == "soma":
            wanted = cell_names(survey, label, coordinates, None, only_soma=self._only_soma)
            return np.asarray(pc.equal(names, wanted))
        # A file's own names are known to the file alone: comparing with the source proves them.
        well = np.asarray(pc.starts_with(names, f"{label}:"))
        if not survey.names_unique:
            ends = [f":{row}" for row in coordinates]
            well &= np.array([name.endswith(end) for name, end in zip(names.to_pylist(), ends, strict=True)], bool)
        return well

    def _counts(self, entry: ChunkReceipt, counts: Counts, rows: ChunkRows) -> Iterator[Finding]:
        sums, n_genes = _row_sums(counts)
        maximum = counts.data.max(initial=0)
        found = (counts.nnz, float(sums.sum()), float(maximum), counts.data.dtype.name)
        if found != (entry.nnz, entry.sum, entry.maximum, entry.dtype) and not _fractional(counts, entry):
            said = f"holds {found[0]:,} non-zeros, sum {found[1]:g}, maximum {found[2]:g}, {found[3]}"
            yield _finding(entry, "totals", f"{said}; its receipt says otherwise")
        if sums_digest(sums, n_genes) != entry.cell_sums:
            yield _finding(entry, "cell-sums", "has other sums of counts per cell than its receipt records")
        if self._opened.plan.identity.normalize is not None:
            yield from _normalisation(entry, counts, self._opened.plan.identity.normalize)
        if counts.n_cells == len(rows):
            yield from self._promise(entry, rows, sums, n_genes)

    def _promise(self, entry: ChunkReceipt, rows: ChunkRows, sums: Array, n_genes: Array) -> Iterator[Finding]:
        """Compare with what the Census says of each cell, where all its genes are kept."""
        identity = self._opened.plan.identity
        # Of normalised chunks sums are no longer those of counts.
        found = {"nnz": n_genes} if identity.normalize is not None else {"raw_sum": sums, "nnz": n_genes}
        whole = self._whole[rows.codes]
        for broken in broken_promises(rows.obs, found, whole, fractional=identity.allow_noninteger):
            at = int(broken.wrong[0])
            said = f"has {broken.name} {broken.found[at]:g} for cell {rows.coordinates[at]}, the index"
            said = f"{said} {broken.promised[at]:g} ({len(broken.wrong):,} such)"
            yield _finding(entry, f"index-{broken.name.replace('_', '-')}", said)


def _normalisation(entry: ChunkReceipt, counts: Counts, target: float) -> Iterator[Finding]:
    """Undo the logarithm: every cell with counts must have the total that all were brought to."""
    wrong = np.flatnonzero((np.diff(counts.indptr) > 0) & ~np.isclose(totals_of(counts), target, rtol=_ROUNDED, atol=0))
    if len(wrong):
        said = f"has {len(wrong):,} cells, number {wrong[0]:,} the first, whose totals are not normalised to {target:g}"
        yield _finding(entry, "normalization", said)


def _finding(entry: ChunkReceipt, kind: str, said: str) -> Finding:
    return Finding(kind, f"{entry.key} {said}", entry.chunk, entry.key)


def _row_sums(counts: Counts) -> tuple[Array, Array]:
    """Return (sums, nnz) of each row ``(n_cells,)``, not by the code that made the receipt's.

    ``bincount`` adds in the order of the entries, as a loop over each row does: equal to the last bit.
    """
    n_genes = np.diff(counts.indptr)
    sums = np.zeros(counts.n_cells, np.float64)
    for start in range(0, counts.n_cells, _ROWS_AT_ONCE):  # 16 bytes an entry are not spent on the whole chunk
        part = counts.rows(start, min(start + _ROWS_AT_ONCE, counts.n_cells))
        rows = np.repeat(np.arange(part.n_cells), np.diff(part.indptr))
        sums[start : start + part.n_cells] = np.bincount(rows, weights=part.data, minlength=part.n_cells)
    return sums, n_genes


def _fractional(counts: Counts, entry: ChunkReceipt) -> bool:
    """Say whether only the order of adding fractions tells the totals apart."""
    same = (counts.nnz, float(counts.data.max(initial=0)), counts.data.dtype.name)
    total = float(counts.data.sum(dtype=np.float64))
    return same == (entry.nnz, entry.maximum, entry.dtype) and bool(np.isclose(total, entry.sum, rtol=1e-9, atol=0))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # pyarrow returns one chunked array when there are no chunks at all
        return whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    return whole


def _texts(column: pa.Array) -> Array:
    levels = levels_of(column)
    texts: Array = np.array([*levels.values, None], object)[levels.codes]
    return texts


def _differing(wanted: pa.ChunkedArray, found: pa.ChunkedArray) -> tuple[int, int]:
    """Return in how many cells two columns differ, and the first; all of them where the types differ."""
    one, other = _plain(wanted), _plain(found)
    if pa.types.is_dictionary(one.type) != pa.types.is_dictionary(other.type):
        return len(one), 0
    if pa.types.is_dictionary(one.type):
        wrong = _texts(one) != _texts(other)
    elif one.type != other.type:
        return len(one), 0
    else:
        a, b = one.to_numpy(zero_copy_only=False), other.to_numpy(zero_copy_only=False)
        wrong = (a != b) & ~((a != a) & (b != b))  # NaN alone differs from itself
    places = np.flatnonzero(wrong)
    return len(places), int(places[0]) if len(places) else 0


def same_column(wanted: pa.ChunkedArray, found: pa.ChunkedArray) -> bool:
    """Say whether two columns of equal length hold the same values; NaN equals NaN, categories are texts."""
    return len(wanted) == len(found) and (len(wanted) == 0 or _differing(wanted, found)[0] == 0)


def first_difference(one: Counts, other: Counts) -> tuple[int, int, float, float] | None:
    """Return (cell, gene, count in `one`, count in `other`) of the first differing count; None when all are equal.

    Both ``(n_cells, n_genes)``, checked.
    """
    for cell in range(one.n_cells):
        a, b = one.rows(cell, cell + 1), other.rows(cell, cell + 1)
        if np.array_equal(a.indices, b.indices) and np.array_equal(a.data, b.data):
            continue
        dense = np.zeros((2, one.n_genes), np.float64)
        dense[0, a.indices], dense[1, b.indices] = a.data, b.data
        wrong = np.flatnonzero(dense[0] != dense[1])
        if len(wrong):
            gene = int(wrong[0])
            return cell, gene, float(dense[0, gene]), float(dense[1, gene])
    return None
